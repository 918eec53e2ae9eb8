"""The metrics of an evaluation by name: values, errors and reasons. Knows no file, no words and no drawing."""

from __future__ import annotations

from collections.abc import Iterable
from math import fsum, hypot, sqrt

from lorasmith.runs.events import Evaluated

PICTURE_METRICS = ("visual", "semantic", "color")
VALIDATION = "validation"
METRICS = (*PICTURE_METRICS, VALIDATION)


def value_of(evaluation: Evaluated, metric: str) -> float | None:
    """Returns the value of a metric; None where it has none."""
    if metric == VALIDATION:
        loss = (evaluation.validation or {}).get("loss")
    else:
        loss = {"visual": evaluation.visual, "semantic": evaluation.semantic, "color": evaluation.color}[metric]
    return None if loss is None else float(loss)


def error_of(evaluation: Evaluated) -> float | None:
    """Returns the standard error of the validation loss; None where at most a single picture was evaluated."""
    error = (evaluation.validation or {}).get("standard_error")
    return None if error is None else float(error)


def difference(first: Evaluated, second: Evaluated) -> tuple[float, float | None]:
    """Returns how much higher the validation loss of `first` is, and the standard error of that; None: unknown.

    Both were evaluated on the same pictures with the same noise. Where the losses of the single pictures are known, the
    error is that of their differences in pairs, else that of two independent means.
    """
    losses = value_of(first, VALIDATION), value_of(second, VALIDATION)
    assert losses[0] is not None and losses[1] is not None
    apart = losses[0] - losses[1]
    pairs = [(evaluation.validation or {}).get("by_example") or [] for evaluation in (first, second)]
    if len(pairs[0]) == len(pairs[1]) > 1:
        each = [float(a) - float(b) for a, b in zip(*pairs, strict=True)]
        mean = fsum(each) / len(each)
        return apart, sqrt(fsum((value - mean) ** 2 for value in each) / (len(each) - 1) / len(each))
    errors = error_of(first), error_of(second)
    return apart, None if errors[0] is None or errors[1] is None else hypot(errors[0], errors[1])


def is_held_out(evaluation: Evaluated) -> bool:
    """Whether the validation loss is that of pictures that are never trained on."""
    return bool((evaluation.validation or {}).get("is_held_out", False))


def reason_of(evaluation: Evaluated, metric: str) -> str:
    """Returns the code of why a metric has no value; "" where it has a value or no reason is recorded."""
    return evaluation.unavailable.get(metric, "") if value_of(evaluation, metric) is None else ""


def validation_changes(evaluations: Iterable[Evaluated]) -> tuple[int, ...]:
    """Returns the steps from which on the validation loss is that of other pictures than before: values on either side
    cannot be compared. Ledgers of older versions do not record the pictures.
    """
    found, before = [], ""
    for evaluation in evaluations:
        pictures = str((evaluation.validation or {}).get("pictures") or "")
        if before and pictures and pictures != before:
            found.append(evaluation.step)
        before = pictures or before
    return tuple(found)
