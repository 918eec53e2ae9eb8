"""Qwen-Image 2.1's names: of layers in files, and of tensors in folders."""

from collections import Counter
from functools import cache
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_qwen_image21_transformer_checkpoint_to_diffusers
from torch import nn

from lorasmith.exporting.formats import parse_native, table_in
from lorasmith.exporting.name_table import PEFT, parse_table
from lorasmith.families.ldm_configs import UnusualShapesError
from lorasmith.families.places import shapes_at
from lorasmith.families.qwen_image21.denoiser import denoiser_builder
from lorasmith.families.qwen_image21.family import QwenImage21
from lorasmith.families.qwen_image21.layout import (
    NAMES,
    denoiser_config,
    find_denoiser,
    find_text,
    from_diffusers,
    layer_names,
    native_names,
    text_config,
)
from lorasmith.targets import TargetModule
from tests.families.qwen_image21.miniature import fused
from tests.families.qwen_miniature import language_shapes


@cache
def _model() -> Any:
    """The published model without numbers, for reading: the class's own sizes are the published ones."""
    return denoiser_builder()({})


def _published() -> dict[str, TargetModule]:
    models = {"denoiser": _model()}
    return {target.name: target for target in QwenImage21.target_modules(QwenImage21, models)}


def test_every_linear_layer_has_a_row_with_its_published_size() -> None:
    table, published = parse_table("qwen_image21", layer_names()), _published()
    assert {name: target.spec for name, target in published.items()} == {
        name: row.layer for name, row in table.targets.items()
    }
    assert len(published) == len(table.modules) == 232 and table.form is PEFT
    model = _model()
    linear = {f"denoiser.{path}" for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert linear == set(published)
    counted = Counter(row.preset for row in table.targets.values())
    assert counted == {"attn-only": 128, "attn-mlp": 224 - 128, "": 232 - 224}


def test_blocks_that_are_compiled_once() -> None:
    blocks = QwenImage21.repeated_blocks(QwenImage21, {"denoiser": _model()})
    assert [type(block).__name__ for block in blocks] == ["QwenImage21TransformerBlock"] * 32


def test_names_in_files_are_those_of_diffusers() -> None:
    """ComfyUI maps the halves of its gate_up by these names alone, not behind "diffusion_model."."""
    for name, row in parse_table("qwen_image21", layer_names()).targets.items():
        assert row.module == name.replace("denoiser.", "transformer.")


def test_comfyui_has_the_gate_and_the_other_half_as_one_layer() -> None:
    """With names and halves as diffusers itself converts such a file."""
    own = parse_table("qwen_image21", layer_names())
    table = table_in(own, "comfyui", parse_native(native_names()))
    assert len(table.modules) == 232 - 32
    for module, rows in table.modules.items():
        native = f"{module.removeprefix('diffusion_model.')}.weight"
        numbers = torch.arange(sum(row.layer.outputs for row in rows))[:, None]
        found = convert_qwen_image21_transformer_checkpoint_to_diffusers({native: numbers})
        assert found.keys() == {f"{row.target.removeprefix('denoiser.')}.weight" for row in rows}
        for row in rows:
            expected = numbers if row.part is None else numbers[row.part]
            assert torch.equal(found[f"{row.target.removeprefix('denoiser.')}.weight"], expected)


def _published_shapes() -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in _model().state_dict().items()}


def test_the_config_follows_from_the_shapes_of_the_published_model() -> None:
    """The class's own config is the published one."""
    published = {name: value for name, value in _model().config.items() if not name.startswith("_")}
    assert denoiser_config(_published_shapes()) == {**published, "axes_dims_rope": list(published["axes_dims_rope"])}


@pytest.mark.parametrize("change", [{"transformer_blocks.0.attn.norm_q.weight": (64,)}, {"img_in.weight": (4096,)}])
def test_shapes_of_no_published_form(change: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(UnusualShapesError):
        denoiser_config({**_published_shapes(), **change})


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "net."])
def test_comfyuis_names_lead_to_the_tensors_that_diffusers_makes_of_them(prefix: str) -> None:
    tensors = _model().state_dict()
    native = fused(tensors)
    assert len(native) == len(tensors) - 32
    stored = {prefix + name: tuple(tensor.shape) for name, tensor in native.items()}
    places = find_denoiser([*stored, "vae.decoder.conv1.weight"] if prefix else stored)
    converted = convert_qwen_image21_transformer_checkpoint_to_diffusers(dict(native))
    expected = {name: tuple(tensor.shape) for name, tensor in converted.items()}
    assert shapes_at(places, stored) == expected == _published_shapes()
    assert places["transformer_blocks.3.img_mlp.gate_layer.weight"].part == 0
    assert places["transformer_blocks.3.img_mlp.proj.weight"].part == 1
    assert {name: place.name for name, place in find_denoiser(tensors).items()} == {name: name for name in tensors}


def test_a_text_encoder_of_another_size_does_not_fit() -> None:
    text = language_shapes(layers=36, width=4096)
    assert text_config(text, {"context_in_dim": 4096})["text_config"]["num_hidden_layers"] == 36
    with pytest.raises(UnusualShapesError):
        text_config(text, {"context_in_dim": 2560})
    stored = [f"model.{name}" for name in text]
    assert find_text(stored) == {} and "norm.weight" not in find_text([*stored, "visual.pos_embed.weight"])


def test_the_text_encoders_eyes_head_and_final_norm_are_left_out() -> None:
    names = ["model.language_model.norm.weight", "model.visual.x.weight", "lm_head.weight"]
    assert from_diffusers("text_encoder", names) == {}
    layer = "layers.0.input_layernorm.weight"
    for beginning in ("model.language_model.", "language_model."):
        assert from_diffusers("text_encoder", [beginning + layer]) == {layer: beginning + layer}
    assert from_diffusers("vae", ["conv1.weight"]) == {"conv1.weight": "conv1.weight"}
    assert set(NAMES.components) == {"transformer", "vae", "text_encoder"}
