"""LoRA files of every writer are read alike."""

from pathlib import Path

import pytest
import torch

from lorasmith.errors import ModelError
from lorasmith.lora_files.keys import DOWN, UP
from lorasmith.lora_files.reader import names_in_table, read_lora
from tests.lora_files.written import RANK, WRITERS, changes, saved, unet_with_lora

MODULE = "lora_unet_mid_block_attentions_0_proj_in"
SAME = {"processors": "diffusers_old", "diffusers_settings": "diffusers"}  # writers with the naming of another
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"


def lora(path: Path, *layers: tuple[str, int, torch.Tensor | None]) -> Path:
    tensors = {}
    for module, rank, alpha in layers:
        tensors[f"{module}.{DOWN}"] = torch.zeros(rank, 8)
        tensors[f"{module}.{UP}"] = torch.zeros(8, rank)
        if alpha is not None:
            tensors[f"{module}.alpha"] = alpha
    return saved(tensors, path)


@pytest.mark.parametrize("naming", WRITERS)
def test_the_files_of_every_writer_are_read(nano: Path, tmp_path: Path, naming: str) -> None:
    unet = unet_with_lora(nano)
    file = read_lora(WRITERS[naming](unet, tmp_path))
    assert set(file.namings) == {SAME.get(naming, naming)}
    assert file.families[0] == "sd15" and set(file.kinds) == {"lora"} and set(file.ranks) == {RANK}
    assert not file.unknown and not file.has_text_encoder and set(file.dtypes) == {"F32"}
    expected = {f"lora_unet_{path.replace('.', '_')}" for path in changes(unet)}
    assert {name.partition(".")[0] for name in names_in_table(file, "sd15").values()} == expected


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_rank_and_alpha_in_every_precision(tmp_path: Path, kind: torch.dtype, shape: tuple[int, ...]) -> None:
    file = read_lora(lora(tmp_path / "a.safetensors", (MODULE, 6, torch.full(shape, 2.5, dtype=kind))))
    assert (file.rank, file.alpha, file.has_text_encoder) == (6, 2.5, False)


def test_ranks_and_alphas_that_differ(tmp_path: Path) -> None:
    one, two = torch.tensor(1.0), torch.tensor(2.0)
    file = read_lora(lora(tmp_path / "a", (MODULE, 4, one), (TEXT, 8, one)))
    assert (file.rank, file.alpha, file.has_text_encoder) == (8, 1.0, True)
    file = read_lora(lora(tmp_path / "b", (MODULE, 4, one), (TEXT, 4, two)))
    assert (file.rank, file.alpha) == (4, None)
    file = read_lora(lora(tmp_path / "c", (MODULE, 4, one), (TEXT, 4, None)))
    assert (file.alphas[1.0], file.alphas[None], file.alpha) == (1, 1, None)


@pytest.mark.parametrize("alpha", [torch.tensor(0.0), torch.tensor(float("nan")), torch.ones(2)])
def test_an_alpha_that_cannot_be_used(tmp_path: Path, alpha: torch.Tensor) -> None:
    assert read_lora(lora(tmp_path / "a", (MODULE, 4, alpha))).alpha is None


def test_keys_of_no_layer_are_kept_aside(tmp_path: Path) -> None:
    tensors = {f"{MODULE}.{DOWN}": torch.zeros(2, 8), f"{MODULE}.{UP}": torch.zeros(8, 2)}
    tensors |= {"bundle_emb.x": torch.zeros(2), f"{MODULE}.lora_A.weight": torch.zeros(2, 8)}
    file = read_lora(saved(tensors, tmp_path / "a"))
    assert len(file.modules) == 1 and len(file.unknown) == 2
    assert names_in_table(file, "sd15")["bundle_emb.x"] == "bundle_emb.x"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"<!doctype html>", "model_is_web_page"),
        (b"\x80\x02}q\x00.", "lora_pickle"),
        (b"", "lora_truncated"),
        (b"\0" * 99, "lora_unknown"),
    ],
)
def test_no_lora_file(tmp_path: Path, content: bytes, code: str) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ModelError, match=code):
        read_lora(tmp_path / "a")


def test_a_folder_of_peft_is_named_with_the_file_in_it(tmp_path: Path) -> None:
    file = tmp_path / "lora" / "unet" / "adapter_model.safetensors"
    with pytest.raises(ModelError, match="lora_irregular"):
        read_lora(tmp_path)
    file.parent.mkdir(parents=True)
    saved({f"{MODULE}.{DOWN}": torch.zeros(2, 8), f"{MODULE}.{UP}": torch.zeros(8, 2)}, file)
    with pytest.raises(ModelError, match="lora_folder") as caught:
        read_lora(tmp_path / "lora")
    assert caught.value.fields["file"] == str(file)
    file.with_name("adapter_config.json").write_text("[")
    with pytest.raises(ModelError, match="lora_damaged"):
        read_lora(file)


def test_a_model_is_no_lora(nano: Path) -> None:
    with pytest.raises(ModelError, match="lora_none"):
        read_lora(nano / "unet" / "diffusion_pytorch_model.safetensors")
