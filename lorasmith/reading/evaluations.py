"""What an evaluation measured, by name, and the words for what it could not. Knows no file and no drawing."""

from __future__ import annotations

from collections.abc import Iterable
from math import fsum, hypot, sqrt

from lorasmith.runs.events import Evaluated

PICTURE_METRICS = ("visual", "semantic", "color")
VALIDATION = "validation"
METRICS = (*PICTURE_METRICS, VALIDATION)


def value_of(evaluation: Evaluated, measure: str) -> float | None:
    """The number measured; None where there is none."""
    if measure == VALIDATION:
        loss = (evaluation.validation or {}).get("loss")
    else:
        loss = {"visual": evaluation.visual, "semantic": evaluation.semantic, "color": evaluation.color}[measure]
    return None if loss is None else float(loss)


def error_of(evaluation: Evaluated) -> float | None:
    """The standard error of the validation loss; None where a single picture was measured, or none."""
    error = (evaluation.validation or {}).get("standard_error")
    return None if error is None else float(error)


def difference(one: Evaluated, other: Evaluated) -> tuple[float, float | None]:
    """How much higher the validation loss of `one` is, and the standard error of that; None: nothing tells it.

    Both were measured on the same pictures with the same noise, so the error is that of the differences picture by
    picture where both are told; else of two independent means.
    """
    losses = value_of(one, VALIDATION), value_of(other, VALIDATION)
    assert losses[0] is not None and losses[1] is not None
    apart = losses[0] - losses[1]
    pairs = [(first.validation or {}).get("by_example") or [] for first in (one, other)]
    if len(pairs[0]) == len(pairs[1]) > 1:
        each = [float(first) - float(second) for first, second in zip(*pairs, strict=True)]
        mean = fsum(each) / len(each)
        return apart, sqrt(fsum((value - mean) ** 2 for value in each) / (len(each) - 1) / len(each))
    errors = error_of(one), error_of(other)
    return apart, None if errors[0] is None or errors[1] is None else hypot(errors[0], errors[1])


def is_held_out(evaluation: Evaluated) -> bool:
    """Whether the validation loss was measured on pictures that are never trained on."""
    return bool((evaluation.validation or {}).get("is_held_out", False))


def reason_of(evaluation: Evaluated, measure: str) -> str:
    """The code of why there is no number; "" where there is one, or none is told."""
    return evaluation.unavailable.get(measure, "") if value_of(evaluation, measure) is None else ""


def validation_changes(evaluations: Iterable[Evaluated]) -> tuple[int, ...]:
    """The steps from which on the validation loss is measured on other pictures than before: they cannot be compared.
    Ledgers of older versions do not say."""
    found, before = [], ""
    for evaluation in evaluations:
        pictures = str((evaluation.validation or {}).get("pictures") or "")
        if before and pictures and pictures != before:
            found.append(evaluation.step)
        before = pictures or before
    return tuple(found)
