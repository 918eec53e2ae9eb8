"""Anima's names: of layers in files, against diffusers' own conversion of the published checkpoint's names."""

from collections import Counter
from functools import cache
from typing import Any

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_anima_lora_to_diffusers
from diffusers.loaders.single_file_utils import convert_cosmos_transformer_checkpoint_to_diffusers

from lorasmith.exporting.name_table import PEFT, parse_table
from lorasmith.families.anima.family import Anima, denoiser_builder
from lorasmith.families.anima.layout import (
    NAMES,
    SPLIT,
    conditioner_config,
    denoiser_config,
    find_conditioner,
    find_denoiser,
    from_diffusers,
    layer_names,
    text_config,
)
from lorasmith.families.anima.text import conditioner_builder
from lorasmith.families.ldm_configs import UnusualShapesError
from lorasmith.families.places import shapes_at
from lorasmith.targets import TargetModule
from tests.families.anima.miniature import native_name
from tests.families.anima.published import PUBLISHED
from tests.families.qwen_miniature import language_shapes

Shapes = dict[str, tuple[int, ...]]


@cache
def _model(blocks: int = 28) -> Any:
    """A published model without numbers, for reading."""
    return denoiser_builder()({**PUBLISHED, "num_layers": blocks})


def _published(blocks: int) -> dict[str, TargetModule]:
    models = {"denoiser": _model(blocks)}
    return {target.name: target for target in Anima.target_modules(Anima, models)}


@pytest.mark.parametrize(("blocks", "count", "chosen"), [(28, 454, 280), (40, 646, 400), (52, 838, 520)])
def test_every_linear_layer_has_a_row_with_its_published_size(blocks: int, count: int, chosen: int) -> None:
    """Of all depths that are published. Layers in blocks are trained, but for those that see the noise level alone."""
    table, published = parse_table("anima", layer_names()), _published(blocks)
    rows = {name: row.layer for name, row in table.targets.items() if name in published}
    assert {name: target.spec for name, target in published.items()} == rows
    assert len(published) == count and len(table.modules) == len(table.targets) == 838 and table.form is PEFT
    model = _model(blocks)
    linear = {f"denoiser.{path}" for path, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert linear == set(published)
    counted = Counter(table.targets[name].preset for name in published)
    assert counted == {"attn-only": chosen * 8 // 10, "attn-mlp": chosen * 2 // 10, "": count - chosen}


def test_blocks_that_are_compiled_once() -> None:
    blocks = Anima.repeated_blocks(Anima, {"denoiser": _model()})
    assert [type(block).__name__ for block in blocks] == ["CosmosTransformerBlock"] * 28


def test_names_in_files_are_those_of_the_published_checkpoint() -> None:
    """ComfyUI maps "diffusion_model." before the checkpoint's name of a weight; diffusers converts that name."""
    table = parse_table("anima", layer_names())
    converted = _convert_non_diffusers_anima_lora_to_diffusers(
        {f"{row.module}.lora_A.weight": torch.tensor(number) for number, row in enumerate(table.targets.values())}
    )
    expected = [f"transformer.{name.removeprefix('denoiser.')}.lora_A.weight" for name in table.targets]
    assert list(converted) == expected
    assert [int(number) for number in converted.values()] == list(range(838))


def test_the_text_encoders_output_layer_is_left_out() -> None:
    names = ["model.layers.0.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight", "embed_tokens.weight"]
    assert from_diffusers("text_encoder", names) == {
        "layers.0.mlp.up_proj.weight": "model.layers.0.mlp.up_proj.weight",
        "norm.weight": "model.norm.weight",
        "embed_tokens.weight": "embed_tokens.weight",
    }
    assert from_diffusers("vae", ["conv1.weight"]) == {"conv1.weight": "conv1.weight"}
    assert set(NAMES.components) == {"transformer", "text_conditioner", "vae", "text_encoder"}


def _shapes(blocks: int = 28) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in _model(blocks).state_dict().items()}


@cache
def _conditioner_shapes() -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in conditioner_builder()({}).state_dict().items()}


def _published_file(prefix: str, blocks: int = 28) -> Shapes:
    """All tensors of the published file: 52 blocks have 1168, and three of them are tables of positions."""
    tables = {f"pos_embedder.{name}": (256,) for name in ("seq", "dim_spatial_range", "dim_temporal_range")}
    bare = {native_name(name): shape for name, shape in _shapes(blocks).items()} | tables
    bare |= {f"llm_adapter.{name}": shape for name, shape in _conditioner_shapes().items()}
    return {prefix + name: shape for name, shape in bare.items()}


@pytest.mark.parametrize("blocks", [28, 40, 52])
def test_the_configs_follow_from_the_shapes_of_the_published_models(blocks: int) -> None:
    assert denoiser_config(_shapes(blocks)) == {**PUBLISHED, "num_layers": blocks}
    published: Any = conditioner_builder()({}).config  # the class's own config is the published one
    found = conditioner_config(_conditioner_shapes(), PUBLISHED)
    assert found == {name: value for name, value in published.items() if not name.startswith("_")}


def test_shapes_of_no_published_form() -> None:
    for change in ({"transformer_blocks.0.attn1.norm_q.weight": (64,)}, {"patch_embed.proj.weight": (2048, 72)}):
        with pytest.raises(UnusualShapesError):
            denoiser_config({**_shapes(), **change})
    for denoiser in ({"text_embed_dim": 2048}, {"text_embed_dim": 1024}):
        with pytest.raises(UnusualShapesError):
            conditioner_config({**_conditioner_shapes(), "blocks.0.cross_attn.q_norm.weight": (32,)}, denoiser)
    with pytest.raises(UnusualShapesError):
        conditioner_config(_conditioner_shapes(), {"text_embed_dim": 2048})


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "net."])
def test_native_names_lead_to_the_tensors_that_diffusers_makes_of_them(prefix: str) -> None:
    stored = _published_file(prefix, 52)
    assert len(stored) == 1168
    places = find_denoiser([*stored, "vae.decoder.conv1.weight"] if prefix else stored)
    native = {name.removeprefix(prefix): torch.empty(shape, device="meta") for name, shape in stored.items()}
    native = {name: tensor for name, tensor in native.items() if not name.startswith("llm_adapter.")}
    converted = convert_cosmos_transformer_checkpoint_to_diffusers(native)
    shapes = {name: tuple(tensor.shape) for name, tensor in converted.items()}
    assert shapes_at(places, stored) == shapes == _shapes(52)
    assert shapes_at(find_conditioner(stored), stored) == _conditioner_shapes()
    assert SPLIT.finder("text_conditioner", stored) == find_conditioner(stored)


def test_cosmos_predict2_has_no_conditioner() -> None:
    stored = [name for name in _published_file("net.") if ".llm_adapter." not in name]
    assert not find_denoiser(stored) and not find_conditioner(stored)


def test_the_text_encoder_is_qwen3_of_its_size() -> None:
    assert text_config(language_shapes(layers=28, width=1024), PUBLISHED)["hidden_size"] == 1024
    for layers, width in ((36, 2560), (28, 2048)):
        with pytest.raises(UnusualShapesError):
            text_config(language_shapes(layers=layers, width=width), PUBLISHED)
