"""LoRA files that a start names besides its base model: --init-from with what the run takes of its sizes, and
--base-weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorasmith.config import AdapterConfig, ModelConfig, RunConfig
from lorasmith.errors import ConfigError, ModelError
from lorasmith.families.locate import is_there
from lorasmith.families.weights import BaseWeights
from lorasmith.lora_files.modules import KINDS, LOW_RANK
from lorasmith.lora_files.names import FAMILY_NAMES, layers_of
from lorasmith.lora_files.reader import LoraFile, read_lora, without_untrained_text

Values = Mapping[tuple[str, str], Any]
Warnings = tuple[tuple[str, dict[str, Any]], ...]

_OF_SIZE = ("rank", "alpha", "conv_rank", "conv_alpha", "block_ranks", "targets", "rslora")


def find_init_from(config: RunConfig, here: Path) -> LoraFile | None:
    """The LoRA to start from, None where none is named.

    Raises:
        ModelError: `init_from_missing`, or what `read_lora` raises.
    """
    if not config.adapter.init_from:
        return None
    path = here / config.adapter.init_from
    if not is_there(path):
        raise ModelError("init_from_missing", path=str(path))
    return read_lora(path)


def check_init_from(file: LoraFile | None, adapter: AdapterConfig, family: str) -> tuple[LoraFile | None, Warnings]:
    """The part of the LoRA that a run with this adapter starts from, with a notice of the rest; whether it fits the
    model shows when it is loaded.

    Args:
        family: of the base model; "": only loading tells it.

    Raises:
        ModelError: `init_from_other_family` and `init_from_other_family_and_kind`, before all that other options could
            correct; `init_from_other_kind`; `init_from_text_encoder`; `init_from_foreign`, only layers of a text
            encoder, which no adapter of this family changes.
    """
    if file is None:
        return None, ()
    path = str(file.path)
    others = file.kinds.keys() - {adapter.kind, "incomplete"}
    if adapter.kind == "lora":
        others -= {"locon"}
    is_other_kind = bool(others) and adapter.kind in KINDS
    if family and file.families and family not in file.families:
        found, wanted = (FAMILY_NAMES.get(name, name) for name in (file.family, family))
        fields = {"path": path, "found": found, "family": wanted}
        if is_other_kind:
            raise ModelError("init_from_other_family_and_kind", **fields, kinds=sorted(others), kind=adapter.kind)
        raise ModelError("init_from_other_family", **fields)
    if is_other_kind:
        raise ModelError("init_from_other_kind", path=path, found=sorted(others), kind=adapter.kind)
    part = without_untrained_text(file, family)
    if not part.modules:
        raise ModelError("init_from_foreign", key=file.modules[0].name, family=FAMILY_NAMES.get(family, family))
    if part.has_text_encoder and not adapter.trains_text_encoder:
        raise ModelError("init_from_text_encoder", path=path)
    lost = len(file.modules) - len(part.modules)
    return part, (("init_from_text_left_out", {"path": path, "count": lost}),) if lost else ()


def check_base_weights(model: ModelConfig, weights: BaseWeights, here: Path) -> Warnings:
    """Returns where all of --base-weights can be merged into the base model, as far as headers tell, with a notice of
    layers of a text encoder that the base model does not hold: those are left out.

    Raises:
        ConfigError: `base_weights_multipliers`, more multipliers than files.
        ModelError: `base_weights_missing`, `tool_other_family`, or what `read_lora` and `check_merge` raise.
    """
    files, multipliers = len(model.base_weights), len(model.base_weights_multiplier)
    if multipliers > files:
        raise ConfigError("base_weights_multipliers", files=files, multipliers=multipliers)
    paths = [here / name for name in model.base_weights]
    for path in paths:
        if not is_there(path):
            raise ModelError("base_weights_missing", path=str(path))
    if not paths:
        return ()

    from lorasmith.lora_tools.combine import Source  # imports numpy, which a start without the option need not wait for
    from lorasmith.lora_tools.into_model import check_merge

    lost = {
        name: check_merge(weights.path, Source(here / name), unused=weights.replaced) for name in model.base_weights
    }
    return tuple(
        ("base_weights_text_left_out", {"path": str(here / name), "count": count, "model": str(weights.path)})
        for name, count in lost.items()
        if count
    )


def sizes_from(
    file: LoraFile | None, adapter: AdapterConfig, values: Values, family: str
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


def shaped_by_start(
    config: RunConfig, values: Values, start: LoraFile | None, here: Path
) -> tuple[RunConfig, Warnings]:
    """Takes rank and alpha of the LoRA in --init-from where no rank is set, those of its convolutions where layers are
    not chosen otherwise; returns notices of that too."""
    if start is None or start.rank is None or ("adapter", "rank") in values or config.adapter.layer_sizes:
        return config, ()
    taken: dict[tuple[str, str], Any] = {("adapter", "rank"): start.rank}
    taken["adapter", "alpha"] = config.adapter.alpha or start.alpha
    path = str(here / config.adapter.init_from)
    windows = start.of_windows if config.adapter.conv_rank is None and not config.adapter.targets else None
    if windows is not None:
        taken |= {
            ("adapter", "conv_rank"): windows[0],
            ("adapter", "conv_alpha"): config.adapter.conv_alpha or windows[1],
        }
    config = config.with_values(taken)
    adapter = config.adapter
    notes = [("init_from_shape_taken", {"path": path, "rank": adapter.rank, "alpha": adapter.resolved_alpha})]
    if windows is not None:
        fields = {"path": path, "rank": adapter.resolved_conv_rank, "alpha": adapter.resolved_conv_alpha}
        notes.append(("init_from_convolutions_taken", fields))
    return config, tuple(notes)
