"""Whole lists of the tensors in published files: every family knows each tensor, in every block. The models of those
whose shapes are recorded are built in `families/test_split_files`."""

import hashlib
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from lorasmith.errors import ModelError
from lorasmith.exporting.formats import parse_native, table_in
from lorasmith.families import clip, native_names
from lorasmith.families.flux1.text_files import clip_config, find_clip
from lorasmith.families.loading import Build
from lorasmith.families.places import shapes_at
from lorasmith.families.qwen_files import find_qwen3_vl, qwen3_vl_config
from lorasmith.families.qwen_text import qwen3_vl_builder
from lorasmith.families.recognize import recognize
from lorasmith.lora_files.names import layers_of
from tests.families.tiny import published, write_header

DENOISERS = {  # published file -> family, the blocks in each of its lists
    "zimage": ("zimage", {"layers": 30, "noise_refiner": 2, "context_refiner": 2}),
    "krea2_raw": ("krea2", {"blocks": 28}),
    "qwen_image_21": ("qwen_image21", {"transformer_blocks": 32}),
    "anima_base": ("anima", {"blocks": 28}),
    "anima_38b": ("anima", {"blocks": 52}),
    "flux1_dev": ("flux1", {"double_blocks": 19, "single_blocks": 38}),
    "flux2_klein_4b": ("flux2_klein", {"double_blocks": 5, "single_blocks": 20}),
    "flux2_klein_9b": ("flux2_klein", {"double_blocks": 8, "single_blocks": 24}),
}
NEVER_TRAINED = ("final_layer.adaLN_modulation.1", "llm_adapter.", "anima_v2_connector.")
"""Of FLUX, as its halves lie the other way round in diffusers; of Anima, where they make the text's embeddings."""


def layout(family: str, name: str) -> Any:
    return getattr(import_module(f"lorasmith.families.{family}.layout"), name)


def built(build: Build, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in build(config).state_dict().items()}


@pytest.mark.parametrize("name", DENOISERS)
def test_each_layer_of_a_denoiser_has_its_name_in_loras(name: str) -> None:
    """ComfyUI changes the weight of the name behind "diffusion_model.". A table may know deeper models."""
    family, blocks = DENOISERS[name]
    stored = {key.removeprefix("net."): shape for key, shape in published(name).items()}
    layers = {key.removesuffix(".weight") for key, shape in stored.items() if len(shape) == 2 and ".weight" in key}
    table = table_in(layers_of(family).table, "comfyui", parse_native(native_names(family)))
    named = {module.removeprefix("diffusion_model.") for module in table.modules if module.startswith("diffusion_")}
    assert {layer for layer in layers - named if not layer.startswith(NEVER_TRAINED)} == set()
    deeper = {layer for layer in named - layers if int(layer.split(".")[1]) >= blocks[layer.split(".")[0]]}
    assert named - layers == deeper


DIGESTS = {  # published file -> MD5 of its names and shapes, and of those in the family's folder of diffusers
    "zimage": ("", "fc3a8a1247fe185ce116ccbe0e426c28"),
    "qwen3_4b": ("0f050f62a88876fea6eae0a18dac5a2e", ""),
    "krea2_raw": ("2a05e69084a6d608516ee47c8ad03334", "cddb3118d9f8250bf7b08c331c5c55aa"),
    "qwen3_vl_4b": ("b8750c24f732c87797f551196c4cef78", ""),
    "qwen_image_21": ("", "4c9f4f5bdeb5c737742ad8e4080221d1"),
    "qwen3_vl_8b": ("2d11bf14bba8b4e87477c8199a895403", ""),
    "anima_base": ("417673936471e79e31ed4d186d7a3f4a", ""),
    "qwen3_06b_base": ("a9995952c2d8e63cf82e115005eb61b9", ""),
    "flux1_dev": ("a29710fea6dddb0314663ee823598e50", "605c56eab23e9e2af863ad8f0813a25d"),
    "clip_l": ("94eefa3dac9cec93cb1ebaf1747d7b78", ""),
    "t5xxl": ("22540b49eaedbc2f2784b2091a234c7c", ""),
    "flux2_klein_4b": ("", "3bde7b817fec8143028b6825a63180df"),
    "flux2_klein_9b": ("", "39c6fc48f07bebecedbbaa971ff466c8"),
    "qwen3_8b": ("9195f3ea256fcd0ae6d929c203470754", ""),
    "ernie_image": ("584c13713849f1af4e03d5f1858b8b7b", ""),
}
"""By them DiffSynth-Studio (fed7b18f, diffsynth/configs/model_configs.py) knows the published files; those of
Qwen-Image 2.1 are pinned by public converters of it."""


def digest(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """As DiffSynth-Studio computes it."""
    parts = [part for key, shape in shapes.items() for part in (key, f"{key}:{'_'.join(map(str, shape))}")]
    return hashlib.md5(",".join(sorted(parts)).encode(), usedforsecurity=False).hexdigest()


@pytest.mark.parametrize("name", DIGESTS)
def test_lists_are_those_of_the_files(name: str) -> None:
    """Also in the names of diffusers, which follow from them."""
    stored, (own, in_diffusers) = published(name), DIGESTS[name]
    assert not own or digest(stored) == own
    if in_diffusers:
        family, _ = DENOISERS[name]
        find = layout(family, "find_denoiser")
        assert digest(shapes_at(find(stored), stored)) == in_diffusers


def test_text_encoders_are_built_of_their_tensors() -> None:
    """Those whose modules have other names than `families/test_split_files` expects, or whose family leaves one out."""
    stored = published("qwen3_vl_8b")
    shapes = shapes_at(find_qwen3_vl(stored), stored)
    assert built(qwen3_vl_builder(), qwen3_vl_config(shapes)) == shapes
    stored = published("clip_l")
    shapes = shapes_at(find_clip(stored), stored)
    modules = built(clip.text_builder(), clip_config(shapes, {"pooled_projection_dim": 768}))
    assert {clip.published_name(name): shape for name, shape in modules.items()} == shapes == stored


@pytest.mark.parametrize(("name", "code", "found"), [
    ("chroma", "model_other_family", {"found": "Chroma"}),
    ("ernie_image", "model_other_family", {"found": "ERNIE-Image"}),
    ("qwen3_vl_4b_fp8", "model_quantized", {"form": "comfy_quant"}),
    ("qwen3_vl_4b", "model_is_text_encoder", {}),
    ("qwen3_06b_base", "model_is_text_encoder", {}),
    ("t5xxl", "model_is_text_encoder", {}),
    ("clip_l", "model_is_text_encoder", {}),
])  # fmt: skip
def test_what_is_no_base_model_is_named(tmp_path: Path, name: str, code: str, found: dict[str, str]) -> None:
    with pytest.raises(ModelError, match=code) as caught:
        recognize(write_header(tmp_path / "model.safetensors", published(name)))
    assert found.items() <= caught.value.fields.items()
