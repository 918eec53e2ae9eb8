"""The layers that a LoRA of FLUX.1 or Anima has in sd-scripts, as a regular expression of ours."""

from __future__ import annotations

from collections.abc import Mapping

from lorasmith.errors import ConfigError
from lorasmith.sd_scripts.arguments import Script
from lorasmith.sd_scripts.pairs import truth
from lorasmith.sd_scripts.settings import Settings

ARG = "--network_args"
OF_BOTH = (
    *("rank_dropout", "module_dropout"),
    *("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio"),
)
OF_FLUX = ("train_blocks", "train_double_block_indices", "train_single_block_indices", "split_qkv")
UNREAD = frozenset(
    {
        *("conv_dim", "conv_alpha", "train_t5xxl", "in_dims", "ggpo_beta", "ggpo_sigma", "verbose"),
        *("img_attn_dim", "txt_attn_dim", "img_mlp_dim", "txt_mlp_dim", "img_mod_dim", "txt_mod_dim"),
        *("single_dim", "single_mod_dim", "network_reg_lrs", "network_reg_dims"),
        *("train_llm_adapter", "exclude_patterns", "include_patterns"),
    }
)
"""Keys that are known there and have no counterpart here."""
DOUBLE, SINGLE = "transformer_blocks", "single_transformer_blocks"
BLOCKS = {DOUBLE: 19, SINGLE: 38}
"""List of blocks of FLUX.1 -> their number."""
ATTENTION_OF_TWO_STREAMS = rf"denoiser\.{DOUBLE}\.\d+\.attn\."
LYCORIS_PRESETS = {
    **dict.fromkeys(("full", "full-lin", "attn-mlp", "unet-only", "unet-transformer-only"), ""),
    "attn-only": ATTENTION_OF_TWO_STREAMS,
}
"""Preset of LyCORIS -> layers of FLUX.1; "": those of the blocks."""


def known_pairs(script: Script) -> tuple[str, ...]:
    """The keys of `--network_args` that a script's own modules read."""
    return (*OF_BOTH, *OF_FLUX) if script == "flux_train_network" else OF_BOTH


def set_layers(texts: Mapping[str, str], settings: Settings, script: Script) -> None:
    """Sets the layers of FLUX.1: all of the blocks, their modulation too, less those that pairs leave out. Of
    Krea 2 all layers are trained, of the others what is trained anyway.

    Raises:
        ConfigError: `sd_preset`, `sd_train_blocks`, `sd_block_indices`, `sd_no_blocks`.
    """
    if script == "krea2_train_network":  # all linear layers there
        settings.set("targets", "full", "network_module")
    if script != "flux_train_network":
        return
    preset = texts.get("preset", "full")
    if preset not in LYCORIS_PRESETS:
        raise ConfigError("sd_preset", preset=preset, known=list(LYCORIS_PRESETS))
    if preset.startswith("unet-"):
        settings.set("train-text-encoder", False, "network_args")
    settings.set("targets", LYCORIS_PRESETS[preset] or _blocks(texts), "network_args")
    if not truth(texts.get("split_qkv", "false"), argument=ARG, key="split_qkv"):
        settings.note("sd_split_qkv")


def _blocks(texts: Mapping[str, str]) -> str:
    kinds = {"all": (DOUBLE, SINGLE), "double": (DOUBLE,), "single": (SINGLE,)}
    kind = texts.get("train_blocks", "all")
    if kind not in kinds:
        raise ConfigError("sd_train_blocks", value=kind, known=list(kinds))
    parts = []
    for name in kinds[kind]:
        key = f"train_{'double' if name == DOUBLE else 'single'}_block_indices"
        chosen = _indices(texts.get(key, "all"), key, BLOCKS[name])
        if len(chosen) == BLOCKS[name]:
            parts.append(rf"{name}\.")
        elif chosen:
            parts.append(rf"{name}\.({'|'.join(map(str, chosen))})\.")
    if not parts:
        raise ConfigError("sd_no_blocks")
    return rf"denoiser\.({'|'.join(parts)})"


def _indices(text: str, key: str, count: int) -> list[int]:
    """The numbers of "all", "none" or "0-5,7"."""
    if text in ("all", "none", ""):
        return list(range(count)) if text == "all" else []
    chosen: set[int] = set()
    for part in text.split(","):
        first, _, last = (number.strip() for number in part.partition("-"))
        last = last or first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < count):
            raise ConfigError("sd_block_indices", key=key, value=text, last=count - 1)
        chosen |= set(range(int(first), int(last) + 1))
    return sorted(chosen)
