"""The names of UNet, VAE and CLIP in the original single files (latent-diffusion, "LDM") of Stable Diffusion.

Every function takes the names of a file and returns canonical name -> name in the file, of all tensors of a component;
others are left out. The canonical names are those of published diffusers folders. Knows no family.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

UNET_PREFIX = "model.diffusion_model."
"""The beginning of the denoiser's names in a single file, in all families of latent-diffusion's code."""
VAE_PREFIX = "first_stage_model."


def unet_names(names: Iterable[str]) -> dict[str, str]:
    """The UNet of a single file."""
    inner = _without(UNET_PREFIX, names)
    depth = _layers_per_block(inner)
    return {_unet_name(name, depth): UNET_PREFIX + name for name in inner}


def vae_names(names: Iterable[str], prefix: str = VAE_PREFIX) -> dict[str, str]:
    """The VAE of a single file."""
    inner = _without(prefix, names)
    levels = count_of(inner, "decoder.up")
    found = {_vae_name(name, levels): prefix + name for name in inner}
    found.pop("", None)
    return found


def clip_names(names: Iterable[str], prefix: str = "", *, has_projection: bool = False) -> dict[str, str]:
    """A CLIP text encoder under transformers' names, in a single file or a folder; `text_model.` may be left out.

    Args:
        has_projection: whether the projection of the pooled embedding is part of the component.
    """
    found = {_clip_name(name, has_projection): prefix + name for name in _without(prefix, names)}
    found.pop("", None)
    return found


def vae_folder_names(names: Iterable[str]) -> dict[str, str]:
    """The VAE of a diffusers folder: older folders have other names in its attention."""
    return {_replace_parts(name, _OLD_VAE_ATTENTION): name for name in names}


def count_of(names: Iterable[str], stem: str) -> int:
    """The number of "<stem>.<n>."; at least 1, so that a missing first layer is a missing key."""
    pattern = re.compile(rf"{re.escape(stem)}\.(\d+)\.")
    return 1 + max((int(match[1]) for name in names if (match := pattern.match(name))), default=0)


# -- one name --------------------------------------------------------------------------------------

_UNET_ENDS = {
    "time_embed.0.": "time_embedding.linear_1.",
    "time_embed.2.": "time_embedding.linear_2.",
    "out.0.": "conv_norm_out.",
    "out.2.": "conv_out.",
    "middle_block.0.": "mid_block.resnets.0.",
    "middle_block.1.": "mid_block.attentions.0.",
    "middle_block.2.": "mid_block.resnets.1.",
    "input_blocks.0.0.": "conv_in.",
    "label_emb.0.0.": "add_embedding.linear_1.",  # SDXL: the pooled text and the sizes
    "label_emb.0.2.": "add_embedding.linear_2.",
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


def _layers_per_block(inner: Iterable[str]) -> int:
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


def _clip_name(name: str, has_projection: bool) -> str:
    """The name with `text_model.` in front, which old single files and new libraries leave out; "" for no layer's."""
    if name == "text_projection.weight":
        return name if has_projection else ""
    name = "text_model." + name.removeprefix("text_model.")
    is_layer = name.startswith(("text_model.embeddings.", "text_model.encoder.", "text_model.final_layer_norm."))
    return name if is_layer and not name.endswith("position_ids") else ""


def _without(prefix: str, names: Iterable[str]) -> list[str]:
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
