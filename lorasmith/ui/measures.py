"""The losses of a run in a few numbers each, for one screen. Knows no words; what a trend is, `reports` says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lorasmith.reading.evaluations import METRICS, VALIDATION, is_held_out, reason_of, value_of
from lorasmith.reading.fold import Curves
from lorasmith.reading.statistics import Trend, summarize


@dataclass(frozen=True, slots=True)
class Measure:
    """One loss. Without a number, and `unavailable` a code, where it could not be measured or was not."""

    newest: float | None = None
    newest_step: int | None = None
    first: float | None = None
    lowest: float | None = None
    lowest_step: int | None = None
    mean: float | None = None
    control: float | None = None  # with the LoRA off
    trend: Trend = "too_few"
    points: int = 0
    standard_error: float | None = None  # of the newest validation loss
    is_held_out: bool | None = None  # validation: whether its pictures are never trained on
    unavailable: str = ""


def measures_of(curves: Curves, *, is_going_on: bool) -> dict[str, Measure]:
    """total, average, visual, semantic, color, validation."""
    steps = [one.step for one in curves.points]
    found = {
        "total": _measure(steps, [one.loss for one in curves.points]),
        "average": _measure(steps, [one.average_loss for one in curves.points]),
    }
    return found | {name: _evaluated(name, curves, is_going_on=is_going_on) for name in METRICS}


def _measure(steps: Sequence[int], values: Sequence[float], **more: Any) -> Measure:
    if not values:
        return Measure(**{"unavailable": "not_yet", **more})
    found = summarize(steps, values)
    return Measure(
        newest=found.final,
        newest_step=found.final_step,
        first=found.first,
        lowest=found.least,
        lowest_step=found.least_step,
        mean=found.mean,
        trend=found.trend,
        points=found.count,
        **more,
    )


def _evaluated(name: str, curves: Curves, *, is_going_on: bool) -> Measure:
    """One of the losses that are measured now and then."""
    points = [(one.step, value) for one in curves.evaluations if (value := value_of(one, name)) is not None]
    more: dict[str, Any] = {"control": None if curves.baseline is None else value_of(curves.baseline, name)}
    if points:
        if name == VALIDATION:
            newest = next(one for one in reversed(curves.evaluations) if value_of(one, name) is not None)
            more["standard_error"] = (newest.validation or {}).get("standard_error")
            more["is_held_out"] = is_held_out(newest)
        return _measure([step for step, _ in points], [value for _, value in points], **more)
    measured = [one for one in (curves.baseline, *curves.evaluations) if one is not None]
    codes = [code for one in measured if (code := reason_of(one, name))]
    code = codes[-1] if codes else "not_yet" if is_going_on else "not_measured"
    return Measure(unavailable=code, **more)
