"""What a LoRA file says of itself, without torch."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lorasmith.errors import ModelError
from lorasmith.families.lora_files import LoraShape, lora_shape

MODULE = "lora_unet_mid_block_attentions_0_proj_in"


def lora(path: Path, *layers: tuple[str, int, torch.Tensor]) -> Path:
    tensors = {}
    for module, rank, alpha in layers:
        tensors[f"{module}.lora_down.weight"] = torch.zeros(rank, 8)
        tensors[f"{module}.lora_up.weight"] = torch.zeros(8, rank)
        tensors[f"{module}.alpha"] = alpha.clone()
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_rank_and_alpha_in_every_precision(tmp_path: Path, kind: torch.dtype, shape: tuple[int, ...]) -> None:
    path = lora(tmp_path / "a.safetensors", (MODULE, 6, torch.full(shape, 2.5, dtype=kind)))
    assert lora_shape(path) == LoraShape(6, 2.5, False)


def test_what_is_not_the_same_everywhere_is_none(tmp_path: Path) -> None:
    one, two = torch.tensor(1.0), torch.tensor(2.0)
    other = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    assert lora_shape(lora(tmp_path / "a", (MODULE, 4, one), (other, 8, one))) == LoraShape(None, 1.0, True)
    assert lora_shape(lora(tmp_path / "b", (MODULE, 4, one), (other, 4, two))) == LoraShape(4, None, True)


@pytest.mark.parametrize("alpha", [torch.tensor(0.0), torch.tensor(float("nan")), torch.tensor(4), torch.ones(2)])
def test_an_alpha_that_is_none(tmp_path: Path, alpha: torch.Tensor) -> None:
    assert lora_shape(lora(tmp_path / "a", (MODULE, 4, alpha))) == LoraShape(4, None, False)


def test_no_safetensors_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"<!doctype html>")
    with pytest.raises(ModelError, match="model_is_web_page"):
        lora_shape(tmp_path / "a")
