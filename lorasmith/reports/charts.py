"""The charts of a report as data: what the PNG and the page both show. Knows how neither is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lorasmith.messages import tr
from lorasmith.reading.metrics import PICTURE_METRICS, TOTAL, VALIDATION, error_of, validation_changes, value_of
from lorasmith.reading.summary import RunSummary
from lorasmith.reports.reasons import why_empty, why_not

LEARNING_RATE = "lr"
ON_TRAINED = "validation_on_trained"
NOT_EVALUATED = "not_evaluated"  # reason of a chart: no evaluation was due yet
NOT_STEPPED = "not_stepped"  # reason of a chart: there is no step
MAX_STEPS_NAMED = 8  # in a note
OUTLIER_SHARE = 0.01  # of single steps, which may leave the chart at its upper edge
MIN_FOR_OUTLIERS = 20  # steps
LEAST_SPAN = 0.01  # of the y axis, as a share of the largest value on it: a finer one shows noise only


def with_least_span(bottom: float, top: float) -> tuple[float, float]:
    """The ends of a y axis, moved apart where noise would fill it."""
    lacking = max(0.0, LEAST_SPAN * max(abs(bottom), abs(top)) - (top - bottom))
    return bottom - lacking / 2, top + lacking / 2


@dataclass(frozen=True, slots=True)
class Series:
    """One curve; its name is the sentence `chart.<kind>`."""

    kind: str  # current, average, measured, validation, validation_on_trained, lr
    steps: tuple[int, ...]
    values: tuple[float, ...]
    errors: tuple[float, ...] = ()  # standard error of each value; empty: not known
    breaks: tuple[int, ...] = ()  # steps from which on other pictures are measured: no line leads there

    def stretches(self) -> list[Series]:
        """The curve cut at its breaks."""
        cuts = [0, *(number for number, step in enumerate(self.steps) if number and step in self.breaks)]
        return [
            Series(self.kind, self.steps[start:end], self.values[start:end], self.errors[start:end])
            for start, end in zip(cuts, [*cuts[1:], len(self.steps)], strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Chart:
    """One panel; its title is the sentence `chart.title.<title>`."""

    name: str  # total, visual, semantic, color, validation, lr
    title: str
    series: tuple[Series, ...]
    last_step: int  # right end of the axis
    reason: str = ""  # code of why there is nothing to draw
    baseline: float | None = None  # the same measure with the adapter off, drawn from step 0 on
    best_step: int | None = None  # marked
    interruptions: tuple[int, ...] = ()  # steps after which the run was interrupted and continued
    gaps: tuple[tuple[int, str], ...] = ()  # steps at which there is no measure, each with the code of the reason

    @property
    def is_empty(self) -> bool:
        return not any(series.steps for series in self.series)

    @property
    def top(self) -> float | None:
        """Upper end of the axis where few single steps lie far above everything else; None: all is in view."""
        current = next((series for series in self.series if series.kind == "current"), None)
        if current is None or len(current.values) < MIN_FOR_OUTLIERS:
            return None
        ordered = sorted(current.values)
        others = [value for series in self.series if series is not current for value in series.values]
        usual = ordered[min(len(ordered) - 1, int((1 - OUTLIER_SHARE) * len(ordered)))]
        high = max([usual, *others, usual if self.baseline is None else self.baseline])
        height = high - min([ordered[0], *others])
        return high + 0.15 * height if ordered[-1] > high + 0.5 * height else None


def four_charts(summary: RunSummary) -> tuple[Chart, ...]:
    """The charts of the PNG: the training loss with the validation loss, then the three picture losses."""
    return (_total(summary), *(_metric(summary, metric) for metric in PICTURE_METRICS))


def more_charts(summary: RunSummary) -> tuple[Chart, ...]:
    """The charts that only the page has: the validation loss alone, and the learning rate."""
    points = summary.curves.points
    steps, rates = tuple(point.step for point in points), tuple(point.denoiser_lr for point in points)
    reason = "" if points else NOT_STEPPED
    return _metric(summary, VALIDATION), Chart(
        LEARNING_RATE, LEARNING_RATE, (Series(LEARNING_RATE, steps, rates),), max(1, summary.done), reason
    )


def _total(summary: RunSummary) -> Chart:
    points = summary.curves.points
    steps = tuple(point.step for point in points)
    series = [
        Series("current", steps, tuple(point.loss for point in points)),
        Series("average", steps, tuple(point.average_loss for point in points)),
    ]
    validation = _series(summary, VALIDATION)
    return Chart(
        name=TOTAL,
        title=TOTAL,
        series=(*series, validation) if validation.steps else tuple(series),
        last_step=max(1, summary.done),
        reason="" if points else NOT_STEPPED,
        baseline=summary.losses[VALIDATION].baseline,
        best_step=_best_step(summary),
        interruptions=_interruptions(summary),
    )


def _metric(summary: RunSummary, metric: str) -> Chart:
    series = _series(summary, metric)
    evaluations = summary.curves.evaluations
    return Chart(
        name=metric,
        title=series.kind if metric == VALIDATION else metric,
        series=(series,),
        last_step=max(1, summary.done),
        reason="" if series.steps else summary.unavailable.get(metric, NOT_EVALUATED),
        baseline=summary.losses[metric].baseline,
        best_step=_best_step(summary),
        gaps=tuple((each.step, each.unavailable[metric]) for each in evaluations if metric in each.unavailable),
    )


def _series(summary: RunSummary, metric: str) -> Series:
    evaluations = [each for each in summary.curves.evaluations if value_of(each, metric) is not None]
    steps = tuple(each.step for each in evaluations)
    values = tuple(value for each in evaluations if (value := value_of(each, metric)) is not None)
    if metric != VALIDATION:
        return Series("measured", steps, values)
    kind = ON_TRAINED if summary.validation_is_held_out is False else VALIDATION
    errors = tuple(error_of(each) or 0.0 for each in evaluations)
    return Series(kind, steps, values, errors, validation_changes(evaluations))


def _best_step(summary: RunSummary) -> int | None:
    """The step that held-out pictures chose."""
    return summary.use.step if summary.use.loss is not None else None


def _interruptions(summary: RunSummary) -> tuple[int, ...]:
    """The steps from which the run continued after an interruption."""
    pairs = pairwise(summary.attempts)
    return tuple(sorted({new.resumed_from for old, new in pairs if old.is_interrupted and new.resumed_from}))


def key_of(chart: Chart, language: str) -> list[tuple[str, str]]:
    """The key of a chart, in order: kind of mark and its name."""
    key = [(series.kind, tr(language, f"chart.{series.kind}")) for series in chart.series if series.steps]
    if chart.baseline is not None:
        of_validation = chart.name == TOTAL
        key.append(("baseline", tr(language, "chart.baseline_validation" if of_validation else "chart.baseline")))
    if chart.best_step is not None:
        key.append(("best", tr(language, "chart.best", step=chart.best_step)))
    if chart.interruptions:
        key.append(("interrupted", tr(language, "chart.interrupted")))
    return key


def notes_of(chart: Chart, language: str) -> list[str]:
    """Notes for the reader of a chart: steps without a measure, and other pictures from some step on."""
    notes = []
    if chart.gaps:
        steps, reason = [step for step, _ in chart.gaps], why_not(language, chart.gaps[-1][1])
        notes.append(tr(language, "chart.gaps", steps=_listed(steps), reason=reason))
    if breaks := sorted({step for series in chart.series for step in series.breaks}):
        notes.append(tr(language, "chart.changes", steps=_listed(breaks)))
    return notes


def reason_of_empty(chart: Chart, language: str) -> str:
    """The reason why there is nothing to draw."""
    return why_empty(language, chart.reason)


def _listed(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps[:MAX_STEPS_NAMED])) + (" …" if len(steps) > MAX_STEPS_NAMED else "")
