"""Folds a run's ledger, one event at a time: the points of its curves, and the other events that count.

Steps that a later start cancelled leave no trace; the rule is `runs.ledger.is_cancelled` and stands nowhere else.
Knows no file and no drawing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from math import fsum

from lorasmith.runs.events import BestChosen, Evaluated, Event, RunStarted, RunStopped, StepCompleted
from lorasmith.runs.ledger import is_cancelled

DENOISER = "denoiser"
RECENT = 50  # steps over which the pace is taken
_STEP_FIELDS = [known.name for known in fields(StepCompleted)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point(StepCompleted):
    """A completed step on the curves."""

    average_loss: float  # mean loss of the last epoch's worth of steps, this step included

    @property
    def denoiser_lr(self) -> float:
        """The learning rate that stands for the run; the text encoder's where nothing else is trained."""
        return self.lr[DENOISER] if DENOISER in self.lr else next(iter(self.lr.values()))

    @property
    def other_lrs(self) -> dict[str, float]:
        """The learning rates of the text encoders that are trained beside the denoiser."""
        main = DENOISER if DENOISER in self.lr else next(iter(self.lr))
        return {component: lr for component, lr in self.lr.items() if component != main}


@dataclass(frozen=True, slots=True)
class Curves:
    """The points that no restart cancelled, in order of steps."""

    points: tuple[Point, ...]
    stop_at: int | None  # the newest start's last step; None before the first start
    evaluations: tuple[Evaluated, ...] = ()  # of the adapter, at most one per step
    baseline: Evaluated | None = None  # the evaluation with the adapter off, drawn as step 0
    best: BestChosen | None = None

    def evaluation_at(self, step: int) -> Evaluated | None:
        return next((evaluation for evaluation in self.evaluations if evaluation.step == step), None)


@dataclass(slots=True)
class AttemptLog:
    """The worker's own events of one attempt, in a few facts."""

    number: int
    start: RunStarted | None = None
    stopped: RunStopped | None = None
    last_step: int | None = None
    cancelled_steps: int = 0
    times: tuple[float, ...] = ()  # of the earliest and the latest event

    def add(self, event: Event) -> None:
        """Takes the next event of this attempt."""
        times = (*self.times, event.time)
        self.times = (min(times), max(times))
        if isinstance(event, RunStarted):
            self.start = self.start or event
        elif isinstance(event, RunStopped):
            self.stopped = event
        elif isinstance(event, StepCompleted):
            self.last_step = max(self.last_step or 0, event.step)


class RunFold:
    """The state of the fold. A live view, the files that follow a run, reports and the log viewer all read it."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.others: list[Event] = []  # the events that count, completed steps aside, in the ledger's order
        self.attempts: dict[int, AttemptLog] = {}  # by number; also what was cancelled
        self._window = 1  # steps of the average
        self._earlier = 0  # points of the starts before the newest

    def add(self, event: Event) -> Point | None:
        """Takes the ledger's next event; returns the new point where it is a completed step."""
        self.attempts.setdefault(event.attempt, AttemptLog(event.attempt)).add(event)
        if isinstance(event, RunStarted):
            self._restart(event)
        if not isinstance(event, StepCompleted):
            self.others.append(event)
            return None
        recent = self.points[max(0, len(self.points) - self._window + 1) :]
        losses = [*(point.loss for point in recent), event.loss]
        plain = {name: getattr(event, name) for name in _STEP_FIELDS}
        self.points.append(Point(**plain, average_loss=fsum(losses) / len(losses)))
        return self.points[-1]

    @property
    def newest(self) -> Point | None:
        return self.points[-1] if self.points else None

    @property
    def seconds_per_step(self) -> float:
        """The pace of the newest start by the clock, so that saving counts too and a time left is honest; 0 before its
        first step.
        """
        recent = self.points[max(self._earlier, len(self.points) - RECENT - 1) :]
        if len(recent) < 2:
            return recent[0].seconds if recent else 0.0
        first, last = recent[0], recent[-1]
        return max(0.0, last.time - first.time) / max(1, last.step - first.step)

    @property
    def starts(self) -> list[RunStarted]:
        return [event for event in self.others if isinstance(event, RunStarted)]

    def curves(self) -> Curves:
        """Returns the curves so far. Of two evaluations of a step the newer counts."""
        evaluations: dict[int, Evaluated] = {}
        baseline: Evaluated | None = None
        best: BestChosen | None = None
        stop_at: int | None = None
        for event in self.others:
            if isinstance(event, RunStarted):
                stop_at = event.stop_at
            elif isinstance(event, BestChosen):
                best = event
            elif isinstance(event, Evaluated) and event.is_control:
                baseline = event
            elif isinstance(event, Evaluated):
                evaluations[event.step] = event
        by_step = tuple(evaluations[step] for step in sorted(evaluations))
        return Curves(tuple(self.points), stop_at, by_step, baseline, best)

    def replaced_by(self, event: Evaluated) -> Evaluated | None:
        """Returns the evaluation that `event` would take the place of, or that same evaluation; None: there is none."""
        curves = self.curves()
        return curves.baseline if event.is_control else curves.evaluation_at(event.step)

    def _restart(self, start: RunStarted) -> None:
        kept: list[Point] = []
        for point in self.points:
            if is_cancelled(point, start):
                self.attempts[point.attempt].cancelled_steps += 1
            else:
                kept.append(point)
        self.points = kept
        self.others = [event for event in self.others if not is_cancelled(event, start)]
        self._window = steps_per_epoch(start)
        self._earlier = len(kept)


def fold_of(events: Iterable[Event]) -> RunFold:
    """Returns the fold of a whole ledger."""
    fold = RunFold()
    for event in events:
        fold.add(event)
    return fold


def curves_of(events: Iterable[Event]) -> Curves:
    """Returns the curves of a whole ledger."""
    return fold_of(events).curves()


def steps_per_epoch(start: RunStarted) -> int:
    """Returns the number of steps that see every picture once, rounded up, at least 1: the window of the average.

    `start.settings` is the dumped RunConfig, so the accumulation lies in its section `training`.
    """
    accumulation = int(start.settings["training"]["accumulation_steps"]) if start.settings else 1
    return max(1, -(-start.batches_per_epoch // accumulation))
