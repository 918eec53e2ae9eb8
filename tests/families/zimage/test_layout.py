"""Z-Image's names: of layers in files, against the class at its published size and diffusers' own conversions."""

from functools import cache
from typing import Any

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_z_image_lora_to_diffusers
from diffusers.loaders.single_file_utils import convert_z_image_transformer_checkpoint_to_diffusers

from lorasmith.exporting.name_table import PEFT, parse_table
from lorasmith.families.ldm_configs import UnusualShapesError
from lorasmith.families.places import Place, shapes_at
from lorasmith.families.zimage.family import ZImage, denoiser_builder
from lorasmith.families.zimage.layout import (
    NAMES,
    denoiser_config,
    find_denoiser,
    from_diffusers,
    layer_names,
    text_config,
    vae_factor,
)
from lorasmith.targets import TargetModule
from tests.families.qwen_miniature import language_shapes
from tests.families.zimage.miniature import native_tensors


@cache
def _model() -> Any:
    """The published model without numbers, for reading: the class's own sizes are the published ones."""
    return denoiser_builder()({})


def _published() -> dict[str, TargetModule]:
    models = {"denoiser": _model()}
    return {target.name: target for target in ZImage.target_modules(ZImage, models)}


def test_every_linear_layer_has_a_row_with_its_published_size() -> None:
    table, published = parse_table("zimage", layer_names()), _published()
    assert {name: target.spec for name, target in published.items()} == {
        name: row.layer for name, row in table.targets.items()
    }
    assert len(published) == len(table.modules) == 276 and table.form is PEFT
    model = _model()
    linear = {f"denoiser.{path}" for path, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert linear == set(published)


def test_blocks_that_are_compiled_once() -> None:
    blocks = ZImage.repeated_blocks(ZImage, {"denoiser": _model()})
    assert [type(block).__name__ for block in blocks] == ["ZImageTransformerBlock"] * 34


def test_names_in_files_are_those_that_both_readers_take() -> None:
    """diffusers' names of the layers behind "diffusion_model.": the names of the published checkpoint, which has q, k
    and v as one layer, lose layers in diffusers."""
    table = parse_table("zimage", layer_names())
    for name, row in table.targets.items():
        pair = {f"{row.module}.lora_{letter}.weight": torch.ones(1) for letter in "AB"}
        found = _convert_non_diffusers_z_image_lora_to_diffusers(pair)
        path = name.removeprefix("denoiser.")
        assert set(found) == {f"transformer.{path}.lora_{letter}.weight" for letter in "AB"}


def test_the_text_encoders_head_is_left_out() -> None:
    names = ["model.norm.weight", "lm_head.weight"]
    assert from_diffusers("text_encoder", names) == {"norm.weight": "model.norm.weight"}
    assert from_diffusers("text_encoder", ["norm.weight"]) == {"norm.weight": "norm.weight"}
    assert from_diffusers("transformer", ["cap_pad_token"]) == {"cap_pad_token": "cap_pad_token"}
    older = ["decoder.mid_block.attentions.0.query.weight"]
    assert from_diffusers("vae", older) == {"decoder.mid_block.attentions.0.to_q.weight": older[0]}


def test_sizes_follow_from_the_levels_of_the_vae() -> None:
    assert vae_factor({"vae": {"block_out_channels": [128, 256, 512, 512]}}) == 8
    assert set(NAMES.components) == {"transformer", "vae", "text_encoder"}


# -- single files ----------------------------------------------------------------------------------


def _published_shapes() -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in _model().state_dict().items()}


def test_the_config_follows_from_the_shapes_of_the_published_model() -> None:
    """The class's own config is the published one, but for the length of the table of places in a text."""
    published = {name: value for name, value in _model().config.items() if not name.startswith("_")}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in published.items()}
    found = denoiser_config(_published_shapes())
    assert found == {**plain, "axes_lens": [1536, *plain["axes_lens"][1:]]}


@pytest.mark.parametrize("change", [{"layers.0.attention.norm_q.weight": (64,)}, {"cap_embedder.1.weight": (3840,)}])
def test_shapes_of_no_published_form(change: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(UnusualShapesError):
        denoiser_config({**_published_shapes(), **change})


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "net."])
def test_native_names_lead_to_the_tensors_that_diffusers_makes_of_them(prefix: str) -> None:
    tensors = _model().state_dict()
    native = native_tensors(tensors)
    stored = {prefix + name: tuple(tensor.shape) for name, tensor in native.items()}
    places = find_denoiser([*stored, "vae.decoder.conv_in.weight"] if prefix else stored)
    converted = convert_z_image_transformer_checkpoint_to_diffusers(dict(native))
    shapes = {name: tuple(tensor.shape) for name, tensor in converted.items()}
    assert shapes_at(places, stored) == shapes == _published_shapes()
    assert [places[f"layers.3.attention.to_{letter}.weight"] for letter in "qkv"] == [
        Place(f"{prefix}layers.3.attention.qkv.weight", number, 3) for number in range(3)
    ]
    in_diffusers_names = find_denoiser(prefix + name for name in tensors)
    assert {name: place.name for name, place in in_diffusers_names.items()} == {name: prefix + name for name in tensors}


def test_other_models_with_its_names_are_not_it() -> None:
    """Omni, which sees pictures, the model of pixels, and Lumina 2, which has no learned tokens."""
    native = list(native_tensors(_model().state_dict()))
    assert find_denoiser(native)
    for extra in ("siglip_embedder.0.weight", "dec_net.x"):
        assert find_denoiser([*native, extra]) == {}
    assert find_denoiser(name for name in native if "pad_token" not in name) == {}


def test_a_text_encoder_of_another_size_does_not_fit() -> None:
    text = language_shapes(layers=36, width=2560)
    assert text_config(text, {"cap_feat_dim": 2560})["num_hidden_layers"] == 36
    with pytest.raises(UnusualShapesError):
        text_config(text, {"cap_feat_dim": 4096})
