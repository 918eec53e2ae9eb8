"""Configs follow from shapes: those of the libraries' own modules, made from other configs of the same architecture."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lorasmith.families import clip
from lorasmith.families import latent_diffusion as ldm
from lorasmith.families.ldm_configs import UnusualShapesError, clip_config, unet_config, vae_config
from lorasmith.families.sd15.layout import usual_config as sd15_config
from lorasmith.families.sdxl.layout import usual_config as sdxl_config

Config = dict[str, Any]


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def unet_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    return shapes_of(ldm.unet_builder()(config))


SD15_OTHERS = [
    {},
    {"block_out_channels": [32, 64, 96], "down_block_types": ["CrossAttnDownBlock2D"] * 2 + ["DownBlock2D"]}
    | {"up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 2, "layers_per_block": 1, "cross_attention_dim": 48},
]
SDXL_OTHERS = [
    {},
    {"block_out_channels": [64, 128, 256], "attention_head_dim": [1, 2, 4], "transformer_layers_per_block": [1, 1, 3]}
    | {"cross_attention_dim": 192, "projection_class_embeddings_input_dim": 6 * 256 + 128, "layers_per_block": 1},
    {"in_channels": 9},
]


@pytest.mark.parametrize(
    ("usual", "changes"),
    [*((sd15_config, one) for one in SD15_OTHERS), *((sdxl_config, one) for one in SDXL_OTHERS)],
)
def test_a_unet_is_told_from_its_shapes(usual: Callable[[str], Config], changes: Config) -> None:
    config = usual("unet") | changes
    assert unet_config(unet_shapes(config), usual("unet")) == config


@pytest.mark.parametrize("changes", [{}, {"block_out_channels": [32, 64], "layers_per_block": 1}])
def test_a_vae_is_told_from_its_shapes(changes: Config) -> None:
    config = sdxl_config("vae") | changes
    levels = len(config["block_out_channels"])
    config |= {"down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels}
    assert vae_config(shapes_of(ldm.vae_builder()(config)), sdxl_config("vae")) == config


def test_a_text_encoder_is_told_from_its_shapes() -> None:
    usual = sdxl_config("text_encoder_2")
    config = usual | {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2, "num_hidden_layers": 3}
    config |= {"projection_dim": 96, "vocab_size": 500}
    with torch.device("meta"):
        shapes = shapes_of(clip.text_builder("CLIPTextModelWithProjection")(config))
    assert clip_config(shapes, usual) == config


@pytest.mark.parametrize(
    "changes",
    [
        {"conv_in.weight": None},
        {"add_embedding.linear_1.weight": None},
        {"down_blocks.0.resnets.0.conv1.weight": (65, 64, 3, 3)},
        {"down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": (640, 768)},
    ],
)
def test_a_unet_of_another_architecture(changes: dict[str, tuple[int, ...] | None]) -> None:
    shapes = unet_shapes(sdxl_config("unet"))
    for name, shape in changes.items():
        del shapes[name]
        if shape is not None:
            shapes[name] = shape
    with pytest.raises(UnusualShapesError):
        unet_config(shapes, sdxl_config("unet"))
