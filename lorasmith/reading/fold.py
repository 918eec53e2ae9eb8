"""Folds a run's ledger, one event at a time: the points of its curves, and the other events that count.

Steps that a later start cancelled leave no trace; the rule is `runs.ledger.is_cancelled` and stands nowhere else.
Knows no file and no drawing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import fsum

from lorasmith.reading.attempts import AttemptLog
from lorasmith.reading.pace import Pace
from lorasmith.runs.events import BestChosen, Evaluated, Event, RunStarted, StepCompleted
from lorasmith.runs.ledger import is_cancelled

DENOISER = "denoiser"


@dataclass(frozen=True, slots=True)
class Point:
    """A completed step on the curves."""

    event: StepCompleted
    average_loss: float  # mean loss of the last epoch's worth of steps, this step included

    @property
    def step(self) -> int:
        return self.event.step

    @property
    def epoch(self) -> int:
        return self.event.epoch

    @property
    def loss(self) -> float:
        return self.event.loss

    @property
    def lr(self) -> dict[str, float]:
        """The learning rates by component."""
        return self.event.lr

    @property
    def grad_norm(self) -> float:
        return self.event.grad_norm

    @property
    def seconds(self) -> float:
        """The duration of the step."""
        return self.event.seconds

    @property
    def time(self) -> float:
        """Wall clock at its end, seconds since 1970."""
        return self.event.time

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
    """What counts in the end, in order of steps."""

    points: tuple[Point, ...]
    stop_at: int | None  # the newest start's last step; None before the first start
    evaluations: tuple[Evaluated, ...] = ()  # of the adapter, at most one per step
    baseline: Evaluated | None = None  # the evaluation with the adapter off, drawn as step 0
    best: BestChosen | None = None

    def evaluation_at(self, step: int) -> Evaluated | None:
        return next((evaluation for evaluation in self.evaluations if evaluation.step == step), None)


class RunFold:
    """The state of the fold. A live view, the files that follow a run, reports and the log viewer all read it."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.others: list[Event] = []  # the events that count, completed steps aside, in the ledger's order
        self.attempts: dict[int, AttemptLog] = {}  # by number; also what was cancelled
        self.pace = Pace()  # of the newest start
        self._window = 1  # steps of the average

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
        self.points.append(Point(event, fsum(losses) / len(losses)))
        self.pace.add(event.step, event.time, event.seconds)
        return self.points[-1]

    @property
    def newest(self) -> Point | None:
        return self.points[-1] if self.points else None

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
            if is_cancelled(point.event, start):
                self.attempts[point.event.attempt].cancelled_steps += 1
            else:
                kept.append(point)
        self.points = kept
        self.others = [event for event in self.others if not is_cancelled(event, start)]
        self.pace = Pace()
        self._window = steps_per_epoch(start)


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
