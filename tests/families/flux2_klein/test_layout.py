"""FLUX.2's names of layers in files, against diffusers' own conversion of LoRA files and of the checkpoint."""

from functools import cache
from typing import Any

import pytest
import torch
from diffusers.loaders import Flux2LoraLoaderMixin
from diffusers.loaders.single_file_utils import convert_flux2_transformer_checkpoint_to_diffusers

from lorasmith.exporting.name_table import PEFT, parse_table
from lorasmith.families.flux2_klein.family import Flux2Klein, denoiser_builder, join_projections
from lorasmith.families.flux2_klein.layout import (
    NAMES,
    denoiser_config,
    find_denoiser,
    from_diffusers,
    layer_names,
    text_config,
    vae_factor,
)
from lorasmith.families.ldm_configs import UnusualShapesError
from lorasmith.families.places import shapes_at
from lorasmith.targets import TargetModule
from tests.families.flux2_klein.miniature import native_tensors
from tests.families.qwen_miniature import language_shapes

PUBLISHED = {  # by model: the rest is as in the class
    "9B": {"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 12288},
    "4B": {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680},
}
PARTS = {"to_qkv": ("to_q", "to_k", "to_v"), "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj")}


@cache
def published(size: str) -> Any:
    """With its projections joined; for reading."""
    model = denoiser_builder()({**PUBLISHED[size], "guidance_embeds": False})
    join_projections(model)
    return model


def targets_of(model: Any) -> dict[str, TargetModule]:
    found = Flux2Klein.target_modules(Flux2Klein, {"denoiser": model})
    return {target.name: target for target in found}


def test_every_linear_layer_but_one_has_a_row_with_its_published_size() -> None:
    """Files of diffusers have the halves of `norm_out` in another order than others, and its reader of LoRAs does not
    turn them: an adapter of it would be wrong somewhere."""
    table, model = parse_table("flux2_klein", layer_names()), published("9B")
    found = targets_of(model)
    assert {name: target.spec for name, target in found.items()} == {
        name: row.layer for name, row in table.targets.items()
    }
    assert len(found) == len(table.modules) == 120 and table.form is PEFT
    linear = {f"denoiser.{path}" for path, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert linear - set(found) == {"denoiser.norm_out.linear"}


@pytest.mark.parametrize(("size", "in_blocks", "parameters"), [("4B", 80, 3_876), ("9B", 112, 9_079)])
def test_both_sizes_have_the_layers_that_other_trainers_count(size: str, in_blocks: int, parameters: int) -> None:
    model = published(size)
    found = targets_of(model)
    assert found.keys() <= parse_table("flux2_klein", layer_names()).targets.keys()
    assert sum("_blocks." in name for name in found) == in_blocks
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6) == parameters
    blocks = Flux2Klein.repeated_blocks(Flux2Klein, {"denoiser": model})
    assert len(blocks) == len(model.transformer_blocks) + len(model.single_transformer_blocks)


def test_names_in_files_are_those_of_the_published_checkpoint() -> None:
    """ComfyUI maps "diffusion_model." before the checkpoint's name of a weight; diffusers converts that name."""
    table = parse_table("flux2_klein", layer_names())
    for name, row in table.targets.items():
        block, _, layer = name.removeprefix("denoiser.").rpartition(".")
        expected = {f"{block}.{part}" for part in PARTS.get(layer, (layer,))} if block else {layer}
        assert row.module.startswith("diffusion_model.")
        native = f"{row.module.removeprefix('diffusion_model.')}.weight"
        converted = convert_flux2_transformer_checkpoint_to_diffusers({native: torch.zeros(6, 1)})
        assert {key.removesuffix(".weight") for key in converted} == expected
        pair = {f"{row.module}.lora_A.weight": torch.zeros(2, 6), f"{row.module}.lora_B.weight": torch.zeros(6, 2)}
        read = Flux2LoraLoaderMixin.lora_state_dict(pair)
        assert {key.partition(".lora_")[0] for key in read} == {f"transformer.{path}" for path in expected}


def test_parts_that_nothing_asks_are_left_out() -> None:
    names = ["model.norm.weight", "lm_head.weight"]
    assert from_diffusers("text_encoder", names) == {"norm.weight": "model.norm.weight"}
    names = ["bn.running_mean", "bn.num_batches_tracked"]
    assert from_diffusers("vae", names) == {"bn.running_mean": "bn.running_mean"}
    assert from_diffusers("transformer", ["proj_out.weight"]) == {"proj_out.weight": "proj_out.weight"}


def test_a_side_of_the_vaes_latents_has_eight_pixels() -> None:
    assert vae_factor({"vae": {"block_out_channels": [128, 256, 512, 512]}}) == 8
    assert set(NAMES.components) == {"transformer", "vae", "text_encoder"}


@cache
def shapes_of(size: str) -> dict[str, tuple[int, ...]]:
    model = denoiser_builder()({**PUBLISHED[size], "guidance_embeds": False})
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_native_names_lead_to_the_tensors_that_diffusers_makes_of_them(prefix: str) -> None:
    shapes = shapes_of("4B")
    native = native_tensors({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    stored = {prefix + name: tuple(tensor.shape) for name, tensor in native.items()}
    assert shapes_at(find_denoiser([*stored, "vae.decoder.conv_in.weight"] if prefix else stored), stored) == shapes
    converted = convert_flux2_transformer_checkpoint_to_diffusers(dict(native))
    assert {name: tuple(tensor.shape) for name, tensor in converted.items()} == shapes
    assert shapes_at(find_denoiser(shapes), shapes) == shapes  # diffusers' names in a file of their own


@pytest.mark.parametrize(
    "name", ["guidance_in.in_layer.weight", "time_guidance_embed.guidance_embedder.linear_1.weight"]
)
def test_flux2_dev_is_another(name: str) -> None:
    shapes = shapes_of("4B")
    named = native_tensors({key: torch.empty(1, device="meta") for key in shapes}) if "in_layer" in name else shapes
    assert find_denoiser(named) and not find_denoiser([*named, name])


@pytest.mark.parametrize("size", ["4B", "9B"])
def test_configs_follow_from_the_shapes_of_the_published_models(size: str) -> None:
    """What is not stated here is the class's own, which the published config repeats."""
    published: Any = denoiser_builder()({**PUBLISHED[size], "guidance_embeds": False}).config
    expected = {name: value for name, value in published.items() if not name.startswith("_")}
    assert denoiser_config(shapes_of(size)) == {**expected, "axes_dims_rope": list(expected["axes_dims_rope"])}
    hidden, other = (4096, 2560) if size == "9B" else (2560, 4096)
    language = language_shapes(layers=36, width=hidden)
    assert text_config(language, {"joint_attention_dim": 3 * hidden})["num_hidden_layers"] == 36
    for shapes, width in ((language, other), (language_shapes(layers=27, width=hidden), hidden)):
        with pytest.raises(UnusualShapesError):
            text_config(shapes, {"joint_attention_dim": 3 * width})
    with pytest.raises(UnusualShapesError):
        denoiser_config({**shapes_of(size), "single_transformer_blocks.0.attn.norm_q.weight": (64,)})
