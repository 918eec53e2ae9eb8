"""A file read whole."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from lorasmith.lora_tools.inspection import inspect_lora
from tests.lora_files.written import saved
from tests.lora_tools.made import LAYERS, tensors_of, write


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_norm_of_a_block_is_that_of_its_changes(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in tensors_of().items()}
    found = inspect_lora(write(tmp_path / "a.safetensors", tensors))
    blocks = [(block.component, block.name, block.modules) for block in found.blocks]
    assert blocks == [("denoiser", "down_blocks.0", 1), ("denoiser", "mid_block", 1), ("text_encoder", "", 1)]
    for block, name in zip(found.blocks, LAYERS, strict=True):
        up, down = (tensors[f"{name}.lora_{part}.weight"].float() for part in ("up", "down"))
        assert block.norm == pytest.approx(float(torch.linalg.norm(up @ down * 0.5)), rel=1e-4)
    assert found.oddities == ()


def test_blocks_are_those_of_the_model_whatever_the_names(tmp_path: Path) -> None:
    pair = {"lora_A.weight": torch.ones(1, 4), "lora_B.weight": torch.ones(4, 1)}
    names = ("single_transformer_blocks.7.attn.to_q", "transformer_blocks.10.attn.to_q", "transformer_blocks.2.ff")
    tensors = {f"transformer.{name}.{end}": tensor for name in names for end, tensor in pair.items()}
    found = inspect_lora(saved(tensors, tmp_path / "a"))
    names_of_blocks = [block.name for block in found.blocks]
    assert names_of_blocks == ["single_transformer_blocks.7", "transformer_blocks.2", "transformer_blocks.10"]


def test_hashes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors")
    content = path.read_bytes()
    data = content[8 + int.from_bytes(content[:8], "little") :]
    assert inspect_lora(path).hashes == {
        "sha256": hashlib.sha256(content).hexdigest(),
        "sshs_model_hash": hashlib.sha256(data).hexdigest(),
    }


def test_all_of_it_is_json(tmp_path: Path) -> None:
    tensors = tensors_of()
    tensors[f"{next(iter(LAYERS))}.lora_up.weight"][0, 0] = float("nan")
    plain = inspect_lora(write(tmp_path / "a.safetensors", tensors)).as_plain()
    again = json.loads(json.dumps(plain, allow_nan=False))
    assert again["family"] == "sd15" and again["ranks"] == {"2": 3} and again["norms"][next(iter(LAYERS))] is None


def test_matrices_that_do_not_fit_have_no_norm(tmp_path: Path) -> None:
    tensors = tensors_of()
    name = next(iter(LAYERS))
    tensors[f"{name}.lora_up.weight"] = torch.ones(320, 3)
    assert inspect_lora(write(tmp_path / "a", tensors)).measured.norms[name] is None
