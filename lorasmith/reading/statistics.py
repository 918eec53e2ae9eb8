"""What can be said of a curve in a few numbers. Plain arithmetic; knows no event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import fsum, sqrt
from statistics import median
from typing import Literal

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
    baseline: float | None = None  # the same measure with the adapter off
    share_of_baseline: float | None = None  # final / baseline


def summarize(
    steps: Sequence[int], values: Sequence[float], *, baseline: float | None = None, smooth: Sequence[float] = ()
) -> MetricSummary:
    """A curve in numbers; the trend is that of `values`, first and final those of `smooth` where it is given."""
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
    """Which way a curve goes, by the Mann-Kendall test (Mann 1945, Econometrica 13, 245-259) on the means of up to
    BLOCKS blocks of it; "level" where chance explains it too."""
    if len(values) < MIN_FOR_TREND:
        return "too_few"
    count = min(BLOCKS, len(values))
    cuts = [len(values) * number // count for number in range(count + 1)]
    means = [fsum(values[begin:end]) / (end - begin) for begin, end in pairwise(cuts)]
    rises = sum((b > a) - (b < a) for number, a in enumerate(means) for b in means[number + 1 :])
    if abs(rises) - 1 < CERTAIN * sqrt(count * (count - 1) * (2 * count + 5) / 18):
        return "level"
    return "rising" if rises > 0 else "falling"


@dataclass(frozen=True, slots=True)
class Speed:
    """How long it took; seconds, bytes."""

    steps: int
    median_seconds: float | None  # of a step
    mean_seconds: float | None
    slowest_seconds: float | None
    slowest_step: int | None
    stepping_seconds: float  # in steps
    evaluating_seconds: float
    saving_seconds: float
    wall_seconds: float  # of all attempts, what was cancelled included
    peak_memory: int  # bytes; 0: not known


def seconds_of(
    steps: Sequence[int], seconds: Sequence[float]
) -> tuple[float | None, float | None, float | None, int | None]:
    """Median, mean, the longest and its step."""
    if not seconds:
        return None, None, None, None
    slowest = max(range(len(seconds)), key=seconds.__getitem__)
    return median(seconds), fsum(seconds) / len(seconds), seconds[slowest], steps[slowest]
