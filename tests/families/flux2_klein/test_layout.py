"""FLUX.2's names of layers in files, against diffusers' own conversion of LoRA files and of the checkpoint."""

from typing import Any

import pytest
import torch
from diffusers.loaders import Flux2LoraLoaderMixin
from diffusers.loaders.single_file_utils import convert_flux2_transformer_checkpoint_to_diffusers

from lorasmith.exporting.name_table import PEFT, parse_table
from lorasmith.families.flux2_klein.family import Flux2Klein, denoiser_builder, join_projections
from lorasmith.families.flux2_klein.layout import NAMES, from_diffusers, layer_names, vae_factor
from lorasmith.targets import TargetModule

PUBLISHED = {  # by model: the rest is as in the class
    "9B": {"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 12288},
    "4B": {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680},
}
PARTS = {"to_qkv": ("to_q", "to_k", "to_v"), "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj")}


def published(size: str) -> Any:
    model = denoiser_builder()({**PUBLISHED[size], "guidance_embeds": False})
    join_projections(model)
    return model


def targets_of(model: Any) -> dict[str, TargetModule]:
    found = Flux2Klein.target_modules(Flux2Klein, {"denoiser": model})  # type: ignore[arg-type]
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
    blocks = Flux2Klein.repeated_blocks(Flux2Klein, {"denoiser": model})  # type: ignore[arg-type]
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
    assert NAMES.components == ("transformer", "vae", "text_encoder")
