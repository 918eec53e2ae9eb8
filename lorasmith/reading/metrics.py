"""The metrics of a run: values, errors and reasons of a single evaluation, and each curve in a few numbers.

Knows no file, no words and no drawing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import fsum, hypot, sqrt
from typing import Literal

from lorasmith.reading.fold import Curves
from lorasmith.runs.events import Evaluated

PICTURE_METRICS = ("visual", "semantic", "color")
VALIDATION = "validation"
METRICS = (*PICTURE_METRICS, VALIDATION)
TOTAL = "total"
Trend = Literal["falling", "rising", "level", "too_few"]
BLOCKS = 12  # of a curve, whose means are compared for the trend
MIN_FOR_TREND = 4
CERTAIN = 1.645  # standard deviations: 95 of 100 curves without a trend stay below


@dataclass(frozen=True, slots=True)
class MetricSummary:
    """A curve in numbers; None where it has no point."""

    count: int
    first: float | None = None
    final: float | None = None
    final_step: int | None = None
    least: float | None = None
    least_step: int | None = None
    mean: float | None = None
    trend: Trend = "too_few"
    baseline: float | None = None  # the same metric with the adapter off
    share_of_baseline: float | None = None  # final / baseline


def summarize_metrics(curves: Curves) -> dict[str, MetricSummary]:
    """Returns the total loss and every metric in numbers; those of the total are smoothed."""
    points = curves.points
    averages = [point.average_loss for point in points]
    found = {TOTAL: summarize([point.step for point in points], [point.loss for point in points], smooth=averages)}
    for metric in METRICS:
        values = {event.step: value for event in curves.evaluations if (value := value_of(event, metric)) is not None}
        baseline = None if curves.baseline is None else value_of(curves.baseline, metric)
        found[metric] = summarize([*values], [*values.values()], baseline=baseline)
    return found


def why_unavailable(curves: Curves) -> dict[str, str]:
    """Returns the newest reason code of each metric that was due and has no value at all."""
    return {metric: code for metric in METRICS if (code := _why_never(curves, metric))}


def _why_never(curves: Curves, metric: str) -> str:
    if any(value_of(event, metric) is not None for event in curves.evaluations):
        return ""
    tried = [*reversed(curves.evaluations), *([curves.baseline] if curves.baseline else [])]
    return next((code for event in tried if (code := reason_of(event, metric))), "")


def summarize(
    steps: Sequence[int], values: Sequence[float], *, baseline: float | None = None, smooth: Sequence[float] = ()
) -> MetricSummary:
    """Returns a curve in numbers: mean and trend of `values`; first, final and least of `smooth` where it is given."""
    if not values:
        return MetricSummary(0, baseline=baseline)
    shown = smooth or values
    lowest = min(range(len(shown)), key=shown.__getitem__)
    return MetricSummary(
        count=len(values),
        first=shown[0],
        final=shown[-1],
        final_step=steps[-1],
        least=shown[lowest],
        least_step=steps[lowest],
        mean=fsum(values) / len(values),
        trend=trend_of(values),
        baseline=baseline,
        share_of_baseline=shown[-1] / baseline if baseline else None,
    )


def trend_of(values: Sequence[float]) -> Trend:
    """Returns the direction of a curve by the Mann-Kendall test (Mann 1945, Econometrica 13, 245-259) on the means of
    up to BLOCKS blocks of it; "level" where chance explains it too.
    """
    if len(values) < MIN_FOR_TREND:
        return "too_few"
    count = min(BLOCKS, len(values))
    cuts = [len(values) * number // count for number in range(count + 1)]
    means = [fsum(values[begin:end]) / (end - begin) for begin, end in pairwise(cuts)]
    rises = sum((b > a) - (b < a) for number, a in enumerate(means) for b in means[number + 1 :])
    if abs(rises) - 1 < CERTAIN * sqrt(count * (count - 1) * (2 * count + 5) / 18):
        return "level"
    return "rising" if rises > 0 else "falling"


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


def validation_is_held_out(curves: Curves) -> bool | None:
    """True if any validation loss of the run is that of held-out pictures; None: it has no validation loss."""
    held_out = [is_held_out(event) for event in curves.evaluations if value_of(event, VALIDATION) is not None]
    return any(held_out) if held_out else None


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
