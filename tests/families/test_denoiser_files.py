"""The denoiser of a model is found by its names, whatever the model was made for."""

import json
from pathlib import Path

import pytest

from lorasmith.errors import ModelError
from lorasmith.families.denoiser_files import find_denoiser
from lorasmith.families.recognize import recognize
from tests.families.tiny import published, write_header

FILES = {
    "anima_29b": "anima",
    "flux2_klein_9b": "flux2_klein",
    "zimage_turbo": "zimage",
    "t5xxl_fp16": "",
}
NATIVE = {name: shape for name, shape in published("zimage_turbo").items() if name.startswith(("layers.0.", "cap_pad"))}


@pytest.mark.parametrize("name", FILES)
def test_published_files(tmp_path: Path, name: str) -> None:
    """None but the denoiser is there, and what was distilled is no less a model to merge into."""
    path = write_header(tmp_path / "model.safetensors", published(name))
    found = find_denoiser(path)
    assert (found.family if found else "") == FILES[name]
    with pytest.raises(ModelError):  # training needs more
        recognize(path)
    if found:
        assert found.layout == "single_file" and found.find(found.headers[path].tensors)


def folder(path: Path, pipeline: str, names: dict[str, tuple[int, ...]], file: str = "safetensors") -> Path:
    (path / "transformer").mkdir(parents=True)
    (path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    write_header(path / "transformer" / f"diffusion_pytorch_model.{file}", names)
    return path


def test_a_folder_whose_pipeline_changes_pictures_has_the_same_layers(tmp_path: Path) -> None:
    names = {"single_transformer_blocks.0.proj_mlp.weight": (12, 3), "x_embedder.weight": (3, 64)}
    names |= {"time_text_embed.text_embedder.linear_1.weight": (3, 3)}
    found = find_denoiser(folder(tmp_path / "kontext", "FluxKontextPipeline", names))
    assert found and (found.family, found.layout) == ("flux1", "diffusers")
    (header,) = found.headers.values()
    assert found.find(header.tensors).keys() == names.keys()
    assert find_denoiser(folder(tmp_path / "chroma", "ChromaPipeline", {"x_embedder.weight": (3, 64)})) is None
    (tmp_path / "empty").mkdir()
    assert find_denoiser(tmp_path / "empty") is None


def test_what_no_weight_can_be_changed_in(tmp_path: Path) -> None:
    pickled = folder(tmp_path / "pickled", "ZImagePipeline", {})
    (pickled / "transformer" / "diffusion_pytorch_model.safetensors").rename(
        pickled / "transformer" / "diffusion_pytorch_model.bin"
    )
    (pickled / "transformer" / "diffusion_pytorch_model.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelError):
        find_denoiser(pickled)
    lora = {**NATIVE, "diffusion_model.layers.0.attention.qkv.lora_A.weight": (4, 4)}
    with pytest.raises(ModelError, match="model_is_lora"):
        find_denoiser(write_header(tmp_path / "lora", lora))
    with pytest.raises(ModelError, match="model_quantized"):
        find_denoiser(write_header(tmp_path / "scaled", published("flux1_dev_fp8")))
