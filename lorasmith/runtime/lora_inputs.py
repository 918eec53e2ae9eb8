"""LoRA files that a start names besides its base model: --base-weights, and the sizes of --dim-from-weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorasmith.config import AdapterConfig, ModelConfig
from lorasmith.errors import ConfigError, ModelError
from lorasmith.families.locate import is_there
from lorasmith.lora_files.modules import LOW_RANK
from lorasmith.lora_files.names import FAMILY_NAMES, layers_of
from lorasmith.lora_files.reader import LoraFile, read_lora

_OF_SIZE = ("rank", "alpha", "conv_rank", "conv_alpha", "block_ranks", "targets", "rslora")


def check_base_weights(model: ModelConfig, family: str, here: Path) -> None:
    """Returns where all of --base-weights are LoRAs for the family; their layers are checked when they are merged.

    Raises:
        ConfigError: `base_weights_multipliers`, more multipliers than files.
        ModelError: `base_weights_missing`, `tool_other_family`, or what `read_lora` raises.
    """
    files, multipliers = len(model.base_weights), len(model.base_weights_multiplier)
    if multipliers > files:
        raise ConfigError("base_weights_multipliers", files=files, multipliers=multipliers)
    for name in model.base_weights:
        path = here / name
        if not is_there(path):
            raise ModelError("base_weights_missing", path=str(path))
        file = read_lora(path)
        if family and family not in file.families:
            found, wanted = (FAMILY_NAMES.get(known, known) for known in (file.family or "?", family))
            raise ModelError("tool_other_family", path=str(path), found=found, family=wanted)


def sizes_from(
    file: LoraFile | None, adapter: AdapterConfig, values: Mapping[tuple[str, str], Any], family: str
) -> dict[tuple[str, str], Any]:
    """The settings that --dim-from-weights takes from the LoRA in --init-from: rank and alpha of every layer.

    Raises:
        ConfigError: `dim_from_weights_alone`, no LoRA or no known base model; `dim_from_weights_with`, an option that
            sets sizes too, or another kind of adapter.
        ModelError: `init_from_foreign`, a layer that the family does not have.
    """
    if not adapter.dim_from_weights:
        return {}
    if file is None or not family:
        raise ConfigError("dim_from_weights_alone")
    for field in _OF_SIZE:
        if ("adapter", field) in values and getattr(adapter, field):
            raise ConfigError("dim_from_weights_with", option=field.removesuffix("s").replace("_", "-"))
    if adapter.kind != "lora":
        raise ConfigError("dim_from_weights_with", option="adapter")
    table = layers_of(family)
    sizes: dict[str, tuple[int, float]] = {}
    for module in file.modules:
        name = table.module_of(module)
        if not name or module.kind not in LOW_RANK or module.rank is None:
            raise ModelError("init_from_foreign", key=module.name, family=FAMILY_NAMES.get(family, family))
        is_number = module.alpha is not None and math.isfinite(module.alpha) and module.alpha > 0
        alpha = float(module.alpha or 0) if is_number else float(module.rank)
        for row in table.known.modules[name]:
            target = table.joined.get(row.target, row.target)
            before = sizes.get(target, (0, 0.0)) if target != row.target else (0, 0.0)
            sizes[target] = before[0] + module.rank, before[1] + alpha
    largest = max(rank for rank, _ in sizes.values())
    return {
        ("adapter", "layer_sizes"): sizes,
        ("adapter", "rank"): largest,
        ("adapter", "alpha"): file.alpha or float(largest),
    }
