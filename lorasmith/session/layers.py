"""The layers of a base model that an adapter changes, each with its rank and alpha: a choice by names and sizes.

Needs no torch: a start is checked with a family's table of names, and the worker chooses among the layers of the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from lorasmith.config import AdapterConfig
from lorasmith.errors import ConfigError
from lorasmith.session.name_tables import name_table
from lorasmith.targets import LayerSpec

PRESETS = {
    "attn-mlp": r"\.attentions\.|\.(self_attn|mlp)\.",
    "attn-only": r"\.(attn[12]|self_attn)\.",
    "unet-convblock-only": r"\.(resnets|downsamplers|upsamplers)\.",
    "full": "",
}
"""Expressions for the names of targets, by the names that LyCORIS gives to these choices."""


class LayerSize(NamedTuple):
    """The size of a layer's change."""

    rank: int
    alpha: float


def chosen_layers(config: AdapterConfig, layers: Mapping[str, LayerSpec]) -> dict[str, LayerSize]:
    """Those of `layers`, by the name of the target, that the adapter changes; in their order.

    Raises:
        ConfigError: `targets_invalid`, no regular expression; `targets_none`, nothing is chosen;
            `targets_no_text_encoder`, only layers of the denoiser are; `conv_rank_unused`.
    """
    chosen = _matching(config.resolved_targets, layers)
    if not chosen:
        raise ConfigError("targets_none", targets=config.resolved_targets)
    components = {name.partition(".")[0] for name in chosen}
    if config.train_text_encoder and components == {"denoiser"}:
        raise ConfigError("targets_no_text_encoder", targets=config.resolved_targets)
    if config.sets_convolutions and not any(spec.has_neighbours for spec in chosen.values()):
        raise ConfigError("conv_rank_unused", targets=config.resolved_targets)
    return {name: _size(config, spec) for name, spec in chosen.items()}


def published_layers(family: str, *, with_text_encoders: bool) -> dict[str, LayerSpec]:
    """The layers of a family's published model that an adapter may change, by the name of the target."""
    rows = name_table(family).targets.values()
    return {row.target: row.layer for row in rows if row.component == "denoiser" or with_text_encoders}


def _matching(targets: str, layers: Mapping[str, LayerSpec]) -> dict[str, LayerSpec]:
    try:
        expression = re.compile(PRESETS.get(targets, targets))
    except re.error as error:
        raise ConfigError("targets_invalid", targets=targets, reason=str(error)) from None
    return {name: spec for name, spec in layers.items() if expression.search(name)}


def _size(config: AdapterConfig, spec: LayerSpec) -> LayerSize:
    """Convolutions with neighbours have a rank and an alpha of their own; 1x1 convolutions do not, as in sd-scripts."""
    if spec.has_neighbours:
        return LayerSize(config.resolved_conv_rank, config.resolved_conv_alpha)
    return LayerSize(config.rank, config.resolved_alpha)
