"""Optimizers by the names of other trainers."""

from __future__ import annotations

from typing import Any

from lorasmith.config.optimizer_table import known_optimizer
from lorasmith.config.sections import OptimizerConfig
from lorasmith.errors import ConfigError

_OURS = {"adamw_8bit": "adamw8bit", "lion_8bit": "lion8bit", "schedule_free_adamw": "adamwschedulefree"}


def optimizer_named(name: Any) -> str | None:
    """Our name of an optimizer; None if there is none."""
    plain = str(name).lower()
    for given in (_OURS.get(plain, plain), plain.replace("_", "")):
        try:
            canonical = OptimizerConfig.model_validate({"name": given}).name
        except (ConfigError, ValueError):
            continue
        if known_optimizer(canonical) is not None:
            return canonical
    return None
