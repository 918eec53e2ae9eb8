"""Checks that the configs of a model hold numbers that a model can be built from.

This comes before anything is built: a million layers or positions would be allocated before a missing weight is
noticed. Reads no file and needs no library.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from lorasmith.errors import ModelError
from lorasmith.families.weights import CONFIGS_KEY, ModelFiles

MAX_LEVELS = 8
MAX_LAYERS = 100
MAX_CHANNELS = 65_536
MAX_TOKENS = 1_000_000
MAX_POSITIONS = 65_536
MAX_TIMESTEPS = 10_000
MAX_SIDE = 4096  # pixels of a latent


def described_configs(files: ModelFiles) -> dict[str, Any] | None:
    """The configs in the metadata of a single file; None where there are none.

    Raises:
        ModelError: `model_damaged`.
    """
    if CONFIGS_KEY not in files.metadata:
        return None
    damaged = ModelError("model_damaged", path=str(files.path), where=CONFIGS_KEY)
    try:
        configs = json.loads(files.metadata[CONFIGS_KEY])
    except (ValueError, RecursionError) as error:
        raise damaged from error
    if not isinstance(configs, dict):
        raise damaged
    return configs


def wrong_setting(configs: Mapping[str, Any]) -> str:
    """The first setting that cannot be, as "unet: sample_size"; "" where none is.

    Checks "unet", "vae", "scheduler" and every "text_encoder…" that there is, by the names of diffusers' and
    transformers' classes. A setting that is left out is fine where the libraries have a default for it.
    """
    for name, config in configs.items():
        check = _wrong_in_text_encoder if name.startswith("text_encoder") else _CHECKS.get(name)
        setting = check(config) if check is not None else ""
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
    if not all(_is_count(count, MAX_LAYERS) for count in (layers if isinstance(layers, list) else [layers])):
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
    return next((name for name, limit in limits.items() if name in config and not _is_count(config[name], limit)), "")


def _wrong_in_scheduler(config: Mapping[str, Any]) -> str:
    if not _is_count(config.get("num_train_timesteps", 1000), MAX_TIMESTEPS):
        return "num_train_timesteps"
    start, end = config.get("beta_start", 0.0001), config.get("beta_end", 0.02)
    if not (_is_positive(start) and _is_positive(end) and start <= end < 1):
        return "beta_start, beta_end"
    return ""


def _is_count(value: Any, limit: int) -> bool:
    return type(value) is int and 0 < value <= limit


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0


_CHECKS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "unet": _wrong_in_unet,
    "vae": _wrong_in_vae,
    "scheduler": _wrong_in_scheduler,
}
