"""The names that Stable Diffusion 1.x gives its tensors, and the configs that follow from their shapes.

A checkpoint has either of two layouts: a diffusers folder, or the original single file (latent-diffusion, "LDM"). The
canonical names are those of published diffusers folders.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lorasmith.families.foreign_files import UNET_PREFIX
from lorasmith.families.places import whole
from lorasmith.families.weights import ComponentNames

LDM_PREFIXES = {
    "unet": UNET_PREFIX,
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.transformer.",
}
"""The beginning of each component's names in a single file."""

Shape = tuple[int, ...]
_CONFIGS = Path(__file__).parent / "configs"


def usual_config(component: str) -> dict[str, Any]:
    """The published config of "unet", "vae", "text_encoder" or "scheduler": a new copy."""
    content: dict[str, Any] = json.loads((_CONFIGS / f"{component}.json").read_text(encoding="utf-8"))
    return content


def from_ldm(component: str, names: Iterable[str]) -> dict[str, str]:
    """Canonical name -> name in the single file, of all tensors of a component. Others are left out."""
    prefix = LDM_PREFIXES[component]
    inner = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    if component == "unet":
        depth = _ldm_layers_per_block(inner)
        found = {_unet_name(name, depth): prefix + name for name in inner}
    elif component == "vae":
        levels = _count(inner, "decoder.up")
        found = {_vae_name(name, levels): prefix + name for name in inner}
    else:
        found = {_text_name(name): prefix + name for name in inner}
    found.pop("", None)
    return found


def from_diffusers(component: str, names: Iterable[str]) -> dict[str, str]:
    """Canonical name -> name in the folder's file: older folders have other names in the VAE's attention."""
    if component == "vae":
        return {_replace_parts(name, _OLD_VAE_ATTENTION): name for name in names}
    if component == "text_encoder":
        found = {_text_name(name): name for name in names}
        found.pop("", None)
        return found
    return {name: name for name in names}


def layer_names() -> str:
    """The layers that an adapter may change, with their names in exported files: see `exporting.name_table`."""
    return Path(__file__).with_name("layer_names.tsv").read_text(encoding="ascii")


NAMES = ComponentNames(
    weight_stems={"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"},
    config_files={
        "unet": "unet/config.json",
        "vae": "vae/config.json",
        "text_encoder": "text_encoder/config.json",
        "scheduler": "scheduler/scheduler_config.json",
    },
    tokenizers={"text_encoder": "tokenizer"},
    from_single_file=whole(from_ldm),
    from_folder=whole(from_diffusers),
)


# -- names -----------------------------------------------------------------------------------------

_UNET_ENDS = {
    "time_embed.0.": "time_embedding.linear_1.",
    "time_embed.2.": "time_embedding.linear_2.",
    "out.0.": "conv_norm_out.",
    "out.2.": "conv_out.",
    "middle_block.0.": "mid_block.resnets.0.",
    "middle_block.1.": "mid_block.attentions.0.",
    "middle_block.2.": "mid_block.resnets.1.",
    "input_blocks.0.0.": "conv_in.",
}
_UNET_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_VAE_PARTS = {
    "mid.block_1": "mid_block.resnets.0",
    "mid.block_2": "mid_block.resnets.1",
    "mid.attn_1.norm": "mid_block.attentions.0.group_norm",
    "mid.attn_1.group_norm": "mid_block.attentions.0.group_norm",
    "mid.attn_1.q": "mid_block.attentions.0.to_q",
    "mid.attn_1.k": "mid_block.attentions.0.to_k",
    "mid.attn_1.v": "mid_block.attentions.0.to_v",
    "mid.attn_1.proj_out": "mid_block.attentions.0.to_out.0",
    # names of programs that merge models under diffusers' names
    "mid.attn_1.to_q": "mid_block.attentions.0.to_q",
    "mid.attn_1.to_k": "mid_block.attentions.0.to_k",
    "mid.attn_1.to_v": "mid_block.attentions.0.to_v",
    "mid.attn_1.to_out.0": "mid_block.attentions.0.to_out.0",
    "mid.attn_1.query": "mid_block.attentions.0.to_q",
    "mid.attn_1.key": "mid_block.attentions.0.to_k",
    "mid.attn_1.value": "mid_block.attentions.0.to_v",
    "mid.attn_1.proj_attn": "mid_block.attentions.0.to_out.0",
    "nin_shortcut": "conv_shortcut",
    "norm_out": "conv_norm_out",
}
_OLD_VAE_ATTENTION = {
    "attentions.0.query": "attentions.0.to_q",
    "attentions.0.key": "attentions.0.to_k",
    "attentions.0.value": "attentions.0.to_v",
    "attentions.0.proj_attn": "attentions.0.to_out.0",
}


def _replace_parts(name: str, parts: Mapping[str, str]) -> str:
    """Replaces the first whole dotted part that fits."""
    for old, new in parts.items():
        replaced = re.sub(rf"(^|\.){re.escape(old)}(?=\.)", rf"\g<1>{new}", name)
        if replaced != name:
            return replaced
    return name


def _ldm_layers_per_block(inner: Iterable[str]) -> int:
    """The number of layers in a level: the block after them reduces the picture, and is called `op`."""
    numbers = [int(match[1]) for name in inner if (match := re.match(r"input_blocks\.(\d+)\.0\.op\.", name))]
    return min(numbers, default=3) - 1


def _unet_name(name: str, depth: int) -> str:
    """ "input_blocks.4.1.proj_in.weight" -> "down_blocks.1.attentions.0.proj_in.weight"."""
    for old, new in _UNET_ENDS.items():
        if name.startswith(old):
            return _replace_parts(new + name.removeprefix(old), _UNET_RESNET)
    match = re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d+)\.(.+)", name)
    if match is None:
        return name
    side, number, place, rest = match[1], int(match[2]), int(match[3]), match[4]
    if side == "input":
        level, layer = divmod(number - 1, depth + 1)
        stem = f"down_blocks.{level}"
        if rest.startswith("op."):
            return f"{stem}.downsamplers.0.conv.{rest.removeprefix('op.')}"
    else:
        level, layer = divmod(number, depth + 1)
        stem = f"up_blocks.{level}"
        if rest.startswith("conv."):
            return f"{stem}.upsamplers.0.{rest}"
    if place == 0:
        return f"{stem}.resnets.{layer}.{_replace_parts(rest, _UNET_RESNET)}"
    return f"{stem}.attentions.{layer}.{rest}"


def _vae_name(name: str, levels: int) -> str:
    """ "decoder.up.3.block.0.conv1.weight" -> "decoder.up_blocks.0.resnets.0.conv1.weight"; "" for the loss."""
    if name.startswith("loss."):
        return ""
    name = _replace_parts(_replace_parts(name, _VAE_PARTS), _OLD_VAE_ATTENTION)
    match = re.fullmatch(r"(encoder\.down|decoder\.up)\.(\d+)\.(block|downsample|upsample)\.(.+)", name)
    if match is None:
        return name
    side, level, kind, rest = match[1], int(match[2]), match[3], match[4]
    if side == "decoder.up":
        level = levels - 1 - level  # LDM counts from the finest level, diffusers in the order of work
    return f"{side}_blocks.{level}." + (f"resnets.{rest}" if kind == "block" else f"{kind}rs.0.{rest}")


def _text_name(name: str) -> str:
    """The name with `text_model.` in front, which old single files and new libraries leave out; "" for no layer's."""
    name = "text_model." + name.removeprefix("text_model.")
    is_layer = name.startswith(("text_model.embeddings.", "text_model.encoder.", "text_model.final_layer_norm."))
    return name if is_layer and not name.endswith("position_ids") else ""


# -- shapes ----------------------------------------------------------------------------------------


class UnusualShapesError(Exception):
    """The configs do not follow from the shapes: the file must hold them."""


def deduce_configs(shapes: Mapping[str, Mapping[str, Shape]]) -> dict[str, Any]:
    """Configs of "unet", "vae", "text_encoder" from the shapes under canonical names, by component.

    Where shapes are not enough, it is as in Stable Diffusion 1.x: 8 heads in the UNet, 64 channels per head in the text
    encoder.

    Raises:
        UnusualShapesError: it cannot be that architecture, however wide.
    """
    try:
        return {
            "unet": _unet_config(shapes["unet"]),
            "vae": _vae_config(shapes["vae"]),
            "text_encoder": _text_config(shapes["text_encoder"]),
        }
    except (KeyError, IndexError) as error:
        raise UnusualShapesError from error


def _unet_config(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    levels = _count(shapes, "down_blocks")
    widths = [shapes[f"down_blocks.{level}.resnets.0.conv1.weight"][0] for level in range(levels)]
    attends = [f"down_blocks.{level}.attentions.0.proj_in.weight" in shapes for level in range(levels)]
    config = usual_config("unet")
    if any(width % config["norm_num_groups"] for width in widths):
        raise UnusualShapesError
    contexts = {shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")}
    if len(contexts) != 1:
        raise UnusualShapesError
    down = ["CrossAttnDownBlock2D" if attended else "DownBlock2D" for attended in attends]
    up = ["CrossAttnUpBlock2D" if attended else "UpBlock2D" for attended in reversed(attends)]
    return config | {
        "in_channels": shapes["conv_in.weight"][1],
        "out_channels": shapes["conv_out.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": _count(shapes, "down_blocks.0.resnets"),
        "down_block_types": down,
        "up_block_types": up,
        "cross_attention_dim": contexts.pop(),
    }


def _vae_config(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    levels = _count(shapes, "encoder.down_blocks")
    widths = [shapes[f"encoder.down_blocks.{level}.resnets.0.conv1.weight"][0] for level in range(levels)]
    config = usual_config("vae")
    if any(width % config["norm_num_groups"] for width in widths):
        raise UnusualShapesError
    return config | {
        "latent_channels": shapes["post_quant_conv.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": _count(shapes, "encoder.down_blocks.0.resnets"),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def _text_config(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    tokens, width = shapes["text_model.embeddings.token_embedding.weight"]
    if width % 64:
        raise UnusualShapesError
    return usual_config("text_encoder") | {
        "vocab_size": tokens,
        "hidden_size": width,
        "projection_dim": width,
        "intermediate_size": shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": _count(shapes, "text_model.encoder.layers"),
        "num_attention_heads": width // 64,
        "max_position_embeddings": shapes["text_model.embeddings.position_embedding.weight"][0],
    }


def _count(shapes: Iterable[str], stem: str) -> int:
    """The number of "<stem>.<n>."; at least 1, so that a missing first layer is a missing key."""
    pattern = re.compile(rf"{re.escape(stem)}\.(\d+)\.")
    return 1 + max((int(match[1]) for name in shapes if (match := pattern.match(name))), default=0)
