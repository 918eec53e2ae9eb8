"""The names of the original single file, checked against diffusers' own conversion, tensor by tensor."""

from typing import Any

import pytest
import torch

from lorasmith.demo import layouts
from lorasmith.families.ldm_names import clip_names, unet_names, vae_folder_names, vae_names
from lorasmith.families.sd15.layout import usual_config
from lorasmith.families.sdxl.layout import usual_config as usual_sdxl_config


def original_names(component: str, config: dict[str, Any]) -> list[str]:
    """The LDM names of the libraries' module."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device("meta"):
        if component == "unet":
            names = UNet2DConditionModel.from_config(config).state_dict()
            return ["model.diffusion_model." + layouts.ldm_unet_name(name, config) for name in names]
        names = AutoencoderKL.from_config(config).state_dict()
    return ["first_stage_model." + layouts.ldm_vae_name(name, config) for name in names]


SDXL = usual_sdxl_config("unet")
UNETS = [
    {},
    SDXL,
    SDXL | {"layers_per_block": 1, "block_out_channels": [64, 64, 64], "transformer_layers_per_block": [1, 1, 2]},
    {"layers_per_block": 1},
    {
        "block_out_channels": [32, 64],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    },
    {
        "block_out_channels": [32, 64, 64],
        "layers_per_block": 3,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    },
]


@pytest.mark.parametrize("changes", UNETS)
def test_unet_names_are_the_librarys(changes: dict[str, Any]) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    config = usual_config("unet") | changes
    names = original_names("unet", config)
    stored = {name: torch.tensor(number) for number, name in enumerate(names)}
    converted = convert_ldm_unet_checkpoint(dict(stored), config)
    ours = {ours: stored[theirs] for ours, theirs in unet_names(names).items()}
    assert ours == converted
    assert len(ours) == len(names) > 100


def test_vae_names_are_the_librarys() -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    config = usual_config("vae")
    names = original_names("vae", config)
    stored = {name: torch.full((1, 1, 1, 1), float(number)) for number, name in enumerate(names)}
    converted = convert_ldm_vae_checkpoint(dict(stored), config)
    ours = {ours: stored[theirs].item() for ours, theirs in vae_names(names).items()}
    assert ours == {name: tensor.flatten()[0].item() for name, tensor in converted.items()}
    assert len(ours) == len(names) > 100


@pytest.mark.parametrize("prefix", ["text_model.", ""])
def test_text_names_with_and_without_text_model(prefix: str) -> None:
    inner = ["embeddings.token_embedding.weight", "encoder.layers.0.mlp.fc1.bias", "final_layer_norm.weight"]
    stored = [f"cond_stage_model.transformer.{prefix}{name}" for name in [*inner, "embeddings.position_ids"]]
    found = clip_names(stored, "cond_stage_model.transformer.")
    assert list(found) == ["text_model." + name for name in inner]
    assert list(found.values()) == stored[:3]


def test_old_names_of_the_vaes_attention() -> None:
    stem = "encoder.mid_block.attentions.0"
    old = [f"{stem}.{part}.weight" for part in ("group_norm", "query", "key", "value", "proj_attn")]
    found = vae_folder_names([*old, "encoder.conv_in.weight"])
    new = [f"{stem}.{part}.weight" for part in ("group_norm", "to_q", "to_k", "to_v", "to_out.0")]
    assert found == dict(zip([*new, "encoder.conv_in.weight"], [*old, "encoder.conv_in.weight"], strict=True))


@pytest.mark.parametrize(
    ("stem", "parts"),
    [
        ("mid.attn_1", ("norm", "q", "k", "v", "proj_out")),
        ("mid.attn_1", ("norm", "to_q", "to_k", "to_v", "to_out.0")),
        ("mid.attn_1", ("group_norm", "query", "key", "value", "proj_attn")),
        ("mid_block.attentions.0", ("group_norm", "to_q", "to_k", "to_v", "to_out.0")),
        ("mid_block.attentions.0", ("group_norm", "query", "key", "value", "proj_attn")),
    ],
)
def test_all_names_of_the_vaes_attention_in_a_single_file(stem: str, parts: tuple[str, ...]) -> None:
    stored = [f"first_stage_model.encoder.{stem}.{part}.weight" for part in parts]
    found = vae_names(stored)
    new = [f"encoder.mid_block.attentions.0.{one}.weight" for one in ("group_norm", "to_q", "to_k", "to_v", "to_out.0")]
    assert found == dict(zip(new, stored, strict=True))


def test_a_foreign_name_stays_foreign() -> None:
    """So that loading sees it as left over."""
    names = ["model.diffusion_model.controls.0.weight"]
    assert unet_names(names) == {"controls.0.weight": names[0]}
