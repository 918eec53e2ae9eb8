"""Whether the small configs of a model hold numbers that a model can be built from.

Checked before anything is built: a million layers or positions would be allocated before a weight is missed. Reads no
file and knows no library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MAX_LEVELS = 8
MAX_LAYERS = 100
MAX_CHANNELS = 65_536
MAX_TOKENS = 1_000_000
MAX_POSITIONS = 65_536
MAX_TIMESTEPS = 10_000
MAX_SIDE = 4096  # pixels of a latent


def wrong_setting(configs: Mapping[str, Any]) -> str:
    """The first setting of "unet", "vae", "text_encoder" or "scheduler" that cannot be, "unet: sample_size"; "" where
    none is. A setting that is left out is fine where the libraries have a default for it."""
    checks = (_wrong_in_unet, _wrong_in_vae, _wrong_in_text_encoder, _wrong_in_scheduler)
    names = ("unet", "vae", "text_encoder", "scheduler")
    for name, check in zip(names, checks, strict=True):
        setting = check(configs[name])
        if setting:
            return f"{name}: {setting}"
    return ""


def _wrong_in_unet(config: Mapping[str, Any]) -> str:
    if not _is_count(config.get("sample_size", 64), MAX_SIDE):
        return "sample_size"
    if not _is_count(config.get("cross_attention_dim", 768), MAX_CHANNELS):
        return "cross_attention_dim"
    return _wrong_levels(config)


def _wrong_in_vae(config: Mapping[str, Any]) -> str:
    if not _is_positive(config.get("scaling_factor", 0.18215)):
        return "scaling_factor"
    return _wrong_levels(config)


def _wrong_levels(config: Mapping[str, Any]) -> str:
    widths, layers = config.get("block_out_channels"), config.get("layers_per_block", 2)
    if not isinstance(widths, list) or not 0 < len(widths) <= MAX_LEVELS:
        return "block_out_channels"
    if not all(_is_count(width, MAX_CHANNELS) for width in widths):
        return "block_out_channels"
    if not all(_is_count(one, MAX_LAYERS) for one in (layers if isinstance(layers, list) else [layers])):
        return "layers_per_block"
    return ""


def _wrong_in_text_encoder(config: Mapping[str, Any]) -> str:
    limits = {
        "num_hidden_layers": MAX_LAYERS,
        "hidden_size": MAX_CHANNELS,
        "intermediate_size": MAX_CHANNELS,
        "num_attention_heads": MAX_CHANNELS,
        "vocab_size": MAX_TOKENS,
        "max_position_embeddings": MAX_POSITIONS,
    }
    return next((name for name, most in limits.items() if name in config and not _is_count(config[name], most)), "")


def _wrong_in_scheduler(config: Mapping[str, Any]) -> str:
    if not _is_count(config.get("num_train_timesteps", 1000), MAX_TIMESTEPS):
        return "num_train_timesteps"
    start, end = config.get("beta_start", 0.0001), config.get("beta_end", 0.02)
    if not (_is_positive(start) and _is_positive(end) and start <= end < 1):
        return "beta_start, beta_end"
    return ""


def _is_count(value: Any, most: int) -> bool:
    return type(value) is int and 0 < value <= most


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0
