"""The ledger as curves: a pure fold over events, one point a completed step, and what was measured at some of them.

Steps that a later attempt cancelled leave no trace. Knows no file and no drawing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import fsum

from lorasmith.runs.events import BestChosen, Evaluated, Event, RunStarted, StepCompleted

DENOISER = "denoiser"


@dataclass(frozen=True, slots=True)
class Point:
    """What is drawn of one step."""

    step: int
    epoch: int
    loss: float
    average_loss: float  # over the last epoch's worth of steps, this one included
    lr: dict[str, float]  # by component
    grad_norm: float
    seconds: float
    time: float  # wall clock, seconds since 1970

    @property
    def denoiser_lr(self) -> float:
        """The learning rate that stands for the run; the text encoder's where nothing else is trained."""
        return self.lr[DENOISER] if DENOISER in self.lr else next(iter(self.lr.values()))

    @property
    def other_lrs(self) -> dict[str, float]:
        """Those of the text encoders that are trained beside it."""
        main = DENOISER if DENOISER in self.lr else next(iter(self.lr))
        return {component: lr for component, lr in self.lr.items() if component != main}


@dataclass(frozen=True, slots=True)
class Curves:
    """What counts in the end, in order of steps."""

    points: tuple[Point, ...]
    stop_at: int | None  # the newest target; None before the first start
    evaluations: tuple[Evaluated, ...] = ()  # of the adapter, one a step at most
    baseline: Evaluated | None = None  # the same measures with the adapter off, drawn as step 0
    best: BestChosen | None = None

    def evaluation_at(self, step: int) -> Evaluated | None:
        return next((one for one in self.evaluations if one.step == step), None)


class RunFold:
    """The fold, one event at a time, for those who watch a run as it goes."""

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._evaluations: dict[int, Evaluated] = {}
        self._baseline: Evaluated | None = None
        self._bests: list[BestChosen] = []
        self._window = 1
        self._stop_at: int | None = None

    def add(self, event: Event) -> Point | None:
        """Takes the next event of the ledger; the point it adds, if it is a completed step."""
        if isinstance(event, RunStarted):
            self._begin(event)
        elif isinstance(event, Evaluated):
            self._measured(event)
        elif isinstance(event, BestChosen):
            self._bests.append(event)
        if not isinstance(event, StepCompleted):
            return None
        recent = self._points[max(0, len(self._points) - self._window + 1) :]
        losses = [*(one.loss for one in recent), event.loss]
        point = Point(
            step=event.step,
            epoch=event.epoch,
            loss=event.loss,
            average_loss=fsum(losses) / len(losses),
            lr=dict(event.lr),
            grad_norm=event.grad_norm,
            seconds=event.seconds,
            time=event.time,
        )
        self._points.append(point)
        return point

    @property
    def newest(self) -> Point | None:
        return self._points[-1] if self._points else None

    def held_in_place_of(self, event: Evaluated) -> Evaluated | None:
        """What was measured there before, or that same event."""
        return self._baseline if event.is_control else self._evaluations.get(event.step)

    def curves(self) -> Curves:
        measured = tuple(self._evaluations[step] for step in sorted(self._evaluations))
        best = self._bests[-1] if self._bests else None
        return Curves(tuple(self._points), self._stop_at, measured, self._baseline, best)

    def _begin(self, event: RunStarted) -> None:
        """An attempt that resumed from step k cancels what earlier ones did after k."""
        self._stop_at = event.stop_at
        self._window = steps_per_epoch(event)
        if event.resumed_from is None:
            return
        while self._points and self._points[-1].step > event.resumed_from:
            self._points.pop()
        self._evaluations = {step: one for step, one in self._evaluations.items() if step <= event.resumed_from}
        self._bests = [one for one in self._bests if one.step <= event.resumed_from]

    def _measured(self, event: Evaluated) -> None:
        """The newest measure of a step counts. A baseline holds whatever becomes of the step it was taken at."""
        if event.is_control:
            self._baseline = event
        else:
            self._evaluations[event.step] = event


def curves_of(events: Iterable[Event]) -> Curves:
    """The curves of a whole ledger."""
    fold = RunFold()
    for event in events:
        fold.add(event)
    return fold.curves()


def steps_per_epoch(start: RunStarted) -> int:
    """How many steps see every picture once, rounded up, at least 1: the window of the average.

    `start.settings` is the dumped RunConfig, so the accumulation lies in its section `training`.
    """
    accumulation = int(start.settings["training"]["accumulation_steps"]) if start.settings else 1
    return max(1, -(-start.batches_per_epoch // accumulation))
