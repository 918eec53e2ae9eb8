"""The metrics of a run, each in a few numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import fsum, sqrt
from typing import Literal

from lorasmith.reading.evaluations import METRICS, reason_of, value_of
from lorasmith.reading.fold import Curves

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
