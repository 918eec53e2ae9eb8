"""Makes a LoRA of the difference between two models, layer by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lorasmith.errors import ModelError
from lorasmith.lora_files.keys import ALPHA
from lorasmith.lora_files.names import FAMILY_NAMES, layers_of
from lorasmith.lora_tools.arrays import Array
from lorasmith.lora_tools.combine import Combined
from lorasmith.lora_tools.low_rank import Cut, check_range, reduced_change, stored_product
from lorasmith.lora_tools.models import Model, open_model
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
    progress: Callable[[int, int], None] = lambda _done, _total: None,
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
    table = layers_of(before.family).table
    others = (before.places.keys() ^ after.places.keys()) & table.targets.keys()
    if others:
        raise ModelError("tool_models_differ", first=str(base), other=str(tuned), what=min(others))
    modules = {name: rows[0].target for name, rows in table.modules.items() if rows[0].target in before.places}
    alpha = float(cut.rank or _NO_LIMIT)
    tensors: dict[str, Stored] = {}
    ranks: Counter[int] = Counter()
    energy = 1.0
    for number, (module, target) in enumerate(modules.items()):
        progress(number, len(modules))
        change = _difference(before, after, target)
        if not change.any():
            continue
        made = reduced_change(change, cut)
        stored = stored_product(made.product, alpha, PRECISIONS[precision])
        check_range(stored, module)
        tensors |= {f"{module}.{suffix}": tensor for suffix, tensor in stored.items()}
        tensors[f"{module}.{ALPHA}"] = Stored.of(np.array(alpha, np.float32), "F32")
        ranks[made.product.rank] += 1
        energy = min(energy, made.energy)
    progress(len(modules), len(modules))
    if not tensors:
        raise ModelError("tool_models_equal", first=str(base), other=str(tuned))
    given = {"ss_sd_model_name": base.name, "modelspec.title": out.stem}
    given |= stated_prediction(before.family, after.weights.noise.prediction)
    metadata = metadata_of(given, before.family, ranks=ranks, alphas=Counter([alpha]), kinds=frozenset({"lora"}))
    return Combined(write_lora(out, tensors, metadata), ranks.total(), (min(ranks), max(ranks)), energy)


def _difference(before: Model, after: Model, target: str) -> Array:
    first, second = before.read(target), after.read(target)
    if first.shape != second.shape:
        paths = {"first": str(before.weights.path), "other": str(after.weights.path)}
        raise ModelError("tool_models_differ", **paths, what=target)
    change = second - first
    if not np.isfinite(change).all():
        raise ModelError("tool_not_finite", path=str(after.weights.path), name=target)
    return change
