"""Krea 2's names: of layers in files, against diffusers' own conversion of the published checkpoint's names."""

from functools import cache
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_krea2_transformer_checkpoint_to_diffusers

from lorasmith.exporting.name_table import PEFT, parse_table
from lorasmith.families.krea2.family import Krea2, denoiser_builder
from lorasmith.families.krea2.layout import (
    NAMES,
    denoiser_config,
    find_denoiser,
    from_diffusers,
    layer_names,
    taps,
    text_config,
)
from lorasmith.families.ldm_configs import UnusualShapesError
from lorasmith.families.places import shapes_at
from lorasmith.targets import TargetModule
from tests.families.krea2.miniature import native_name
from tests.families.qwen_miniature import language_shapes


@cache
def _model() -> Any:
    """The published model without numbers, for reading: the class's own sizes are the published ones."""
    return denoiser_builder()({})


def _published() -> dict[str, TargetModule]:
    models = {"denoiser": _model()}
    return {target.name: target for target in Krea2.target_modules(Krea2, models)}


def test_every_linear_layer_has_a_row_with_its_published_size() -> None:
    table, published = parse_table("krea2", layer_names()), _published()
    assert {name: target.spec for name, target in published.items()} == {
        name: row.layer for name, row in table.targets.items()
    }
    assert len(published) == len(table.modules) == 264 and table.form is PEFT
    model = _model()
    linear = {f"denoiser.{path}" for path, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert linear == set(published)


def test_blocks_that_are_compiled_once() -> None:
    blocks = Krea2.repeated_blocks(Krea2, {"denoiser": _model()})
    assert [type(block).__name__ for block in blocks] == ["Krea2TransformerBlock"] * 28


def test_names_in_files_are_those_of_the_published_checkpoint() -> None:
    """ComfyUI maps "diffusion_model." before the checkpoint's name of a weight; diffusers converts that name."""
    table = parse_table("krea2", layer_names())
    for name, row in table.targets.items():
        assert row.module.startswith("diffusion_model.")
        native = f"{row.module.removeprefix('diffusion_model.')}.weight"
        converted = convert_krea2_transformer_checkpoint_to_diffusers({native: torch.zeros(1)})
        assert list(converted) == [f"{name.removeprefix('denoiser.')}.weight"]


def test_the_text_encoders_eyes_are_left_out() -> None:
    names = ["language_model.norm.weight", "visual.blocks.0.norm1.weight"]
    assert from_diffusers("text_encoder", names) == {"norm.weight": "language_model.norm.weight"}
    older = ["model.language_model.norm.weight", "model.visual.x.weight", "lm_head.weight"]
    assert from_diffusers("text_encoder", older) == {"norm.weight": "model.language_model.norm.weight"}
    assert from_diffusers("vae", ["conv1.weight"]) == {"conv1.weight": "conv1.weight"}


def test_layers_of_the_text_encoder_are_stated_or_the_usual() -> None:
    assert taps({"pipeline": {"text_encoder_select_layers": [1, 2]}}) == (1, 2)
    assert taps({"pipeline": {}}) == tuple(range(2, 36, 3))
    assert set(NAMES.components) == {"transformer", "vae", "text_encoder"}


def _published_shapes() -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in _model().state_dict().items()}


def test_the_config_follows_from_the_shapes_of_the_published_model() -> None:
    """The class's own config is the published one."""
    published = {name: value for name, value in _model().config.items() if not name.startswith("_")}
    assert denoiser_config(_published_shapes()) == {**published, "axes_dims_rope": list(published["axes_dims_rope"])}


@pytest.mark.parametrize("change", [{"transformer_blocks.0.attn.norm_q.weight": (64,)}, {"img_in.weight": (6144,)}])
def test_shapes_of_no_published_form(change: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(UnusualShapesError):
        denoiser_config({**_published_shapes(), **change})


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "net."])
def test_native_names_lead_to_the_tensors_that_diffusers_makes_of_them(prefix: str) -> None:
    shapes = _published_shapes()
    native = {native_name(name): torch.empty(shape, device="meta") for name, shape in shapes.items()}
    native = {name: tensor.flatten() if name.endswith(".mod.lin") else tensor for name, tensor in native.items()}
    stored = {prefix + name: tuple(tensor.shape) for name, tensor in native.items()}
    places = find_denoiser([*stored, "vae.decoder.conv1.weight"] if prefix else stored)
    assert {name: place.name.removeprefix(prefix) for name, place in places.items()} == {
        name: native_name(name) for name in shapes
    }
    converted = convert_krea2_transformer_checkpoint_to_diffusers(native)
    assert shapes_at(places, stored) == {name: tuple(tensor.shape) for name, tensor in converted.items()} == shapes


def test_a_text_encoder_of_another_size_does_not_fit() -> None:
    text = language_shapes(layers=36, width=2560)
    assert text_config(text, {"text_hidden_dim": 2560})["text_config"]["num_hidden_layers"] == 36
    for shapes, width in ((text, 4096), (language_shapes(layers=28, width=2560), 2560)):
        with pytest.raises(UnusualShapesError):
            text_config(shapes, {"text_hidden_dim": width})
