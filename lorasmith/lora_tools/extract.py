"""Makes a LoRA of the difference between two models, layer by layer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from lorasmith.errors import ModelError
from lorasmith.lora_files.names import FAMILY_NAMES, layers_of
from lorasmith.lora_tools.arrays import Array
from lorasmith.lora_tools.combine import Combined, Progress, unseen
from lorasmith.lora_tools.low_rank import Cut, named_product, reduced_change
from lorasmith.lora_tools.models import Model, component_of, open_model
from lorasmith.lora_tools.regroup import parts_of
from lorasmith.lora_tools.writing import (
    PRECISIONS,
    Stored,
    metadata_of,
    refuse_existing,
    stated_prediction,
    write_lora,
)

_NO_LIMIT = 64  # alpha where no rank is asked for: any number has the same effect


def extract(
    base: Path,
    tuned: Path,
    out: Path,
    *,
    cut: Cut,
    precision: str = "fp16",
    progress: Progress = unseen,
) -> Combined:
    """Writes a LoRA that makes of `base` what `tuned` is, as far as its ranks allow, without layers that are equal.

    Args:
        progress: called with the number of layers that are done, and of all.

    Raises:
        ModelError: no base models in safetensors files; `tool_models_differ`, of two families or sizes;
            `tool_models_equal`; `tool_not_finite`.
        InputError: `tool_output_exists`, or the folder cannot be written.
    """
    refuse_existing(out)
    before, after = open_model(base), open_model(tuned)
    if before.family != after.family:
        names = sorted(FAMILY_NAMES.get(model.family, model.family) for model in (before, after))
        raise ModelError("tool_models_differ", first=str(base), other=str(tuned), what=", ".join(names))
    known = layers_of(before.family)
    modules = {
        name: [part.target for part in parts_of(rows, known.known.pieces)] for name, rows in known.table.modules.items()
    }
    common = before.components & after.components  # the text encoder of either may be elsewhere
    modules = {name: targets for name, targets in modules.items() if component_of(targets[0]) in common}
    others = (before.places.keys() ^ after.places.keys()) & {target for own in modules.values() for target in own}
    if others:
        raise ModelError("tool_models_differ", first=str(base), other=str(tuned), what=min(others))
    modules = {name: targets for name, targets in modules.items() if targets[0] in before.places}
    alpha = float(cut.rank or _NO_LIMIT)
    tensors: dict[str, Stored] = {}
    ranks: Counter[int] = Counter()
    alphas: Counter[float] = Counter()
    energy = 1.0
    for number, (module, targets) in enumerate(modules.items()):
        progress(number, len(modules))
        change = np.concatenate([_difference(before, after, target) for target in targets])
        if not change.any():
            continue
        made = reduced_change(change, cut)
        tensors |= named_product(module, made.product, alpha, PRECISIONS[precision], known.table.form)
        ranks[made.product.rank] += 1
        alphas[alpha if known.table.form.has_alphas else float(made.product.rank)] += 1
        energy = min(energy, made.energy)
    progress(len(modules), len(modules))
    if not tensors:
        raise ModelError("tool_models_equal", first=str(base), other=str(tuned))
    given = {"ss_sd_model_name": base.name, "modelspec.title": out.stem}
    given |= stated_prediction(before.family, after.prediction)
    metadata = metadata_of(given, before.family, ranks=ranks, alphas=alphas, kinds=frozenset({"lora"}))
    return Combined(write_lora(out, tensors, metadata), ranks.total(), (min(ranks), max(ranks)), energy)


def _difference(before: Model, after: Model, target: str) -> Array:
    first, second = before.read(target), after.read(target)
    if first.shape != second.shape:
        paths = {"first": str(before.path), "other": str(after.path)}
        raise ModelError("tool_models_differ", **paths, what=target)
    change = second - first
    if not np.isfinite(change).all():
        raise ModelError("tool_not_finite", path=str(after.path), name=target)
    return change
