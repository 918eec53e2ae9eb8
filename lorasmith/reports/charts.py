"""The charts of a report as data, the same for the PNG and the page. Knows how neither draws, and no words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor, isfinite, log10

from lorasmith.reading.evaluations import (
    METRICS,
    PICTURE_METRICS,
    VALIDATION,
    error_of,
    validation_changes,
    value_of,
)
from lorasmith.reading.summary import TOTAL, RunSummary

LEARNING_RATE = "lr"
ON_TRAINED = "validation_on_trained"
NOT_EVALUATED = "not_evaluated"  # of a chart: no measure was due yet
NOT_STEPPED = "not_stepped"  # of a chart: there is no step


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: the word `chart.<kind>`."""

    kind: str  # current, average, measured, validation, lr
    steps: tuple[float, ...]
    values: tuple[float, ...]
    errors: tuple[float, ...] = ()  # standard error of each value; none: not known
    changes: tuple[float, ...] = ()  # steps from which on it is measured on other pictures: no line leads there

    def stretches(self) -> tuple[Line, ...]:
        """The line cut where its pictures changed."""
        starts = [0, *(number for number, step in enumerate(self.steps) if number and step in self.changes)]
        ends = [*starts[1:], len(self.steps)]
        return tuple(
            Line(self.kind, self.steps[start:end], self.values[start:end], self.errors[start:end])
            for start, end in zip(starts, ends, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Chart:
    """One panel: its title is the word `chart.title.<title>`."""

    name: str  # total, visual, semantic, color, validation, lr
    lines: tuple[Line, ...]
    control: float | None  # drawn as a horizontal line
    reason: str  # code of why there is nothing to draw, "" where there is something
    gaps: tuple[tuple[int, str], ...]  # steps at which it could not be measured, with the code
    last_step: int  # right end of the axis
    best_step: int | None  # marked, where there is one
    is_on_trained: bool = False  # the validation loss was measured on trained pictures, and is called so

    @property
    def title(self) -> str:
        return ON_TRAINED if self.name == VALIDATION and self.is_on_trained else self.name

    def word_of(self, line: Line) -> str:
        """Its name in the key."""
        return ON_TRAINED if line.kind == VALIDATION and self.is_on_trained else line.kind

    @property
    def is_empty(self) -> bool:
        return not any(line.steps for line in self.lines)

    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value drawn, error bars and control included."""
        values = [] if self.control is None else [self.control]
        for line in self.lines:
            errors = line.errors or (0.0,) * len(line.values)
            for value, error in zip(line.values, errors, strict=True):
                values += [value - error, value + error]
        return (min(values), max(values)) if values else (0.0, 1.0)


def four_charts(summary: RunSummary) -> tuple[Chart, ...]:
    """Those of the PNG: total with its average and the validation loss, then the three picture losses."""
    return (_total(summary), *(_measure(summary, measure) for measure in PICTURE_METRICS))


def more_charts(summary: RunSummary) -> tuple[Chart, ...]:
    """Those that the page has besides: validation with its error bars, and the learning rate."""
    points = summary.curves.points
    rate = Line("lr", tuple(one.step for one in points), tuple(one.denoiser_lr for one in points))
    reason = "" if points else NOT_STEPPED
    return (
        _measure(summary, VALIDATION),
        Chart(LEARNING_RATE, (rate,), None, reason, (), max(1, summary.done), None),
    )


def _total(summary: RunSummary) -> Chart:
    points = summary.curves.points
    steps = tuple(float(one.step) for one in points)
    lines = [
        Line("current", steps, tuple(one.loss for one in points)),
        Line("average", steps, tuple(one.average_loss for one in points)),
    ]
    validation = _line(summary, VALIDATION)
    if validation.steps:
        lines.append(validation)
    control = summary.losses[VALIDATION].baseline
    reason = "" if points else NOT_STEPPED
    return Chart(
        TOTAL, tuple(lines), control, reason, (), max(1, summary.done), _best_step(summary), _is_on_trained(summary)
    )


def _measure(summary: RunSummary, measure: str) -> Chart:
    assert measure in METRICS
    line = _line(summary, measure)
    reason = "" if line.steps else summary.unavailable.get(measure, NOT_EVALUATED)
    gaps = tuple(
        (one.step, one.unavailable[measure]) for one in summary.curves.evaluations if measure in one.unavailable
    )
    control = summary.losses[measure].baseline
    return Chart(
        measure, (line,), control, reason, gaps, max(1, summary.done), _best_step(summary), _is_on_trained(summary)
    )


def _line(summary: RunSummary, measure: str) -> Line:
    found = [one for one in summary.curves.evaluations if value_of(one, measure) is not None]
    errors = tuple(error_of(one) or 0.0 for one in found) if measure == VALIDATION else ()
    values = tuple(value for one in found if (value := value_of(one, measure)) is not None)
    kind = "validation" if measure == VALIDATION else "measured"
    changes = tuple(float(step) for step in validation_changes(found)) if measure == VALIDATION else ()
    return Line(kind, tuple(one.step for one in found), values, errors, changes)


def _best_step(summary: RunSummary) -> int | None:
    """The step that held-out pictures chose."""
    return summary.use.step if summary.use.loss is not None else None


def _is_on_trained(summary: RunSummary) -> bool:
    return summary.validation_is_held_out is False


def thinned(line: Line, most: int) -> Line:
    """A line of at most about 2 x `most` points that looks the same: lowest and highest of each stretch."""
    count = len(line.steps)
    if count <= 2 * most or line.errors or line.changes:
        return line
    chosen: list[int] = [0]
    for number in range(most):
        stretch = range(number * count // most, (number + 1) * count // most)
        ends = {min(stretch, key=line.values.__getitem__), max(stretch, key=line.values.__getitem__)}
        chosen += sorted(ends - set(chosen[-1:]))
    chosen += [count - 1] if chosen[-1] != count - 1 else []
    return Line(line.kind, tuple(line.steps[one] for one in chosen), tuple(line.values[one] for one in chosen))


def ticks(low: float, high: float, most: int) -> tuple[float, ...]:
    """Round numbers from within low..high, 2 to `most` of them where there is room."""
    if not (isfinite(low) and isfinite(high)) or high <= low:
        return (low,)
    rough = (high - low) / most
    magnitude = 10.0 ** floor(log10(rough))
    width = next(one * magnitude for one in (1, 2, 2.5, 5, 10, 20) if (high - low) / (one * magnitude) <= most)
    first = int(-(-low // width))
    found: list[float] = []
    while first * width <= high * (1 + 1e-12) and len(found) <= most:
        found.append(first * width)
        first += 1
    return tuple(found)


def whole(values: Iterable[float]) -> tuple[int, ...]:
    """Ticks of steps: steps are whole."""
    return tuple(sorted({round(one) for one in values}))


def padded(low: float, high: float) -> tuple[float, float]:
    """Some air above and below; a flat curve gets some too. Never below 0 where nothing is."""
    room = (high - low) * 0.06 or abs(high) * 0.1 or 0.5
    bottom = low - room
    return (max(0.0, bottom) if low >= 0 else bottom), high + room


def spread(values: Sequence[float], share: float) -> float:
    """The value below which `share` of `values` lies: keeps one outlier from flattening a chart."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
