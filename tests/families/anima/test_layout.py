"""Anima's names: of layers in files, against diffusers' own conversion of the published checkpoint's names."""

import re

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_anima_lora_to_diffusers

from lorasmith.exporting.name_table import PEFT, parse_table
from lorasmith.families.anima.family import Anima, denoiser_builder
from lorasmith.families.anima.layout import NAMES, from_diffusers, layer_names
from lorasmith.session.layers import PRESETS
from lorasmith.targets import TargetModule
from tests.families.anima.published import PUBLISHED


def _published(blocks: int) -> dict[str, TargetModule]:
    models = {"denoiser": denoiser_builder()({**PUBLISHED, "num_layers": blocks})}
    return {target.name: target for target in Anima.target_modules(Anima, models)}  # type: ignore[arg-type]


@pytest.mark.parametrize(("blocks", "count", "chosen"), [(28, 454, 280), (40, 646, 400), (52, 838, 520)])
def test_every_linear_layer_has_a_row_with_its_published_size(blocks: int, count: int, chosen: int) -> None:
    """Of all depths that are published. Layers in blocks are trained, but for those that see the noise level alone."""
    table, published = parse_table("anima", layer_names()), _published(blocks)
    rows = {name: row.layer for name, row in table.targets.items() if name in published}
    assert {name: target.spec for name, target in published.items()} == rows
    assert len(published) == count and len(table.modules) == len(table.targets) == 838 and table.form is PEFT
    model = denoiser_builder()({**PUBLISHED, "num_layers": blocks})
    linear = {f"denoiser.{path}" for path, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert linear == set(published)
    assert sum(bool(re.search(PRESETS["attn-mlp"], name)) for name in published) == chosen
    assert sum(bool(re.search(PRESETS["attn-only"], name)) for name in published) == chosen * 8 // 10


def test_blocks_that_are_compiled_once() -> None:
    blocks = Anima.repeated_blocks(Anima, {"denoiser": denoiser_builder()(PUBLISHED)})  # type: ignore[arg-type]
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
    assert NAMES.components == ("transformer", "text_conditioner", "vae", "text_encoder")
