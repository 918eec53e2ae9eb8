"""Configs of a UNet, a VAE and a CLIP text encoder from the shapes of their tensors, by canonical name.

What shapes do not tell is as in `usual`, the family's published config. Knows no family and reads no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.families.ldm_names import count_of
from lorasmith.families.weights import Shapes

CHANNELS_PER_HEAD = 64
"""In CLIP, and in the UNets of Stable Diffusion 2 and XL; those of 1.x have a number of heads instead."""


class UnusualShapesError(Exception):
    """The configs do not follow from the shapes: the file must hold them."""


def unet_config(shapes: Shapes, usual: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a UNet of the family's architecture, however wide and deep.

    Raises:
        UnusualShapesError: it cannot be that architecture.
    """
    try:
        return {**usual, **_unet_sizes(shapes, usual)}
    except (KeyError, IndexError, ValueError) as error:
        raise UnusualShapesError from error


def vae_config(shapes: Shapes, usual: Mapping[str, Any]) -> dict[str, Any]:
    """The config of an AutoencoderKL.

    Raises:
        UnusualShapesError: it cannot be that architecture.
    """
    try:
        levels = count_of(shapes, "encoder.down_blocks")
        return {
            **usual,
            "latent_channels": shapes["post_quant_conv.weight"][0],
            "block_out_channels": _widths(shapes, "encoder.down_blocks", levels, usual["norm_num_groups"]),
            "layers_per_block": count_of(shapes, "encoder.down_blocks.0.resnets"),
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
        }
    except (KeyError, IndexError) as error:
        raise UnusualShapesError from error


def clip_config(shapes: Shapes, usual: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a CLIP text encoder.

    Raises:
        UnusualShapesError: it cannot be that architecture.
    """
    try:
        tokens, width = shapes["text_model.embeddings.token_embedding.weight"]
        return {
            **usual,
            "vocab_size": tokens,
            "hidden_size": width,
            "projection_dim": shapes.get("text_projection.weight", (width,))[0],
            "intermediate_size": shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0],
            "num_hidden_layers": count_of(shapes, "text_model.encoder.layers"),
            "num_attention_heads": _heads(width),
            "max_position_embeddings": shapes["text_model.embeddings.position_embedding.weight"][0],
        }
    except (KeyError, IndexError, ValueError) as error:
        raise UnusualShapesError from error


def _unet_sizes(shapes: Shapes, usual: Mapping[str, Any]) -> dict[str, Any]:
    levels = count_of(shapes, "down_blocks")
    widths = _widths(shapes, "down_blocks", levels, usual["norm_num_groups"])
    attends = [f"down_blocks.{level}.attentions.0.proj_in.weight" in shapes for level in range(levels)]
    contexts = {shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")}
    if len(contexts) != 1:
        raise UnusualShapesError
    sizes: dict[str, Any] = {
        "in_channels": shapes["conv_in.weight"][1],
        "out_channels": shapes["conv_out.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": count_of(shapes, "down_blocks.0.resnets"),
        "down_block_types": ["CrossAttnDownBlock2D" if attended else "DownBlock2D" for attended in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if attended else "UpBlock2D" for attended in reversed(attends)],
        "cross_attention_dim": contexts.pop(),
    }
    if isinstance(usual["attention_head_dim"], list):  # the number of heads: the name is an old mistake of the format
        sizes["attention_head_dim"] = [_heads(width) for width in widths]
    if "transformer_layers_per_block" in usual:
        sizes["transformer_layers_per_block"] = _depths(shapes, levels)
    if "projection_class_embeddings_input_dim" in usual:
        sizes["projection_class_embeddings_input_dim"] = shapes["add_embedding.linear_1.weight"][1]
    return sizes


def _depths(shapes: Shapes, levels: int) -> list[int]:
    """Transformer blocks of an attention, by level: the same on the way down and up, in the middle as in the last."""
    depths = [count_of(shapes, f"down_blocks.{level}.attentions.0.transformer_blocks") for level in range(levels)]
    stems = {name.partition(".transformer_blocks.")[0] for name in shapes if ".transformer_blocks." in name}
    for stem in stems:
        side, level = stem.split(".")[:2]
        expected = {"down_blocks": depths, "up_blocks": depths[::-1]}.get(side, [])
        depth = expected[int(level)] if expected else depths[-1]
        if count_of(shapes, f"{stem}.transformer_blocks") != depth:
            raise UnusualShapesError
    return depths


def _widths(shapes: Shapes, stem: str, levels: int, groups: int) -> list[int]:
    widths = [shapes[f"{stem}.{level}.resnets.0.conv1.weight"][0] for level in range(levels)]
    if any(width % groups for width in widths):
        raise UnusualShapesError
    return widths


def _heads(width: int) -> int:
    if width % CHANNELS_PER_HEAD:
        raise UnusualShapesError
    return width // CHANNELS_PER_HEAD
