"""A whole run as data: everything that a report or a screen shows of it, in codes and numbers.

A pure function of the two ledgers' events. Knows no file, no words and no drawing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from math import fsum
from statistics import median
from typing import Any

from lorasmith.reading.attempts import Attempt, Ending, attempts_of
from lorasmith.reading.files import FileRecord, recorded_files
from lorasmith.reading.fold import Curves, RunFold, fold_of
from lorasmith.reading.metrics import MetricSummary, summarize_metrics, validation_is_held_out, why_unavailable
from lorasmith.reading.pace import pace_of, share_of_peak
from lorasmith.reading.pictures import Data, SampleRow, data_of, samples_of
from lorasmith.reading.verdicts import (
    Memorisation,
    OverTraining,
    Recommendation,
    find_memorisation,
    find_over_training,
    recommend,
)
from lorasmith.runs.events import CheckpointSaved, DeviceChosen, Evaluated, Event, RunStarted, StepRepeated, Warned


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that a --continue changed; it holds for the steps after `after_step`."""

    after_step: int
    option: str
    before: Any
    now: Any


@dataclass(frozen=True, slots=True)
class Speed:
    """Durations in seconds, memory in bytes."""

    steps: int
    median_seconds: float | None  # of a step
    mean_seconds: float | None
    slowest_seconds: float | None
    slowest_step: int | None
    stepping_seconds: float  # in steps
    evaluating_seconds: float
    saving_seconds: float
    wall_seconds: float  # of all attempts, cancelled steps included
    peak_memory: int  # 0: unknown
    pictures_per_second: float | None  # in a median step
    flops: float | None  # floating-point operations in a second of it; None where the ledger has none
    share_of_peak: float | None  # of the device's, where its maker states it
    waited_seconds: float  # for a device that computes beside the program
    recordings: int  # graphs recorded or compiled during the steps


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Everything that can be shown of a run."""

    asked_steps: int | None  # by the newest start
    stop_at: int | None
    done: int  # the newest completed step that counts; before it, the step of the state that the run resumed from
    is_finished: bool
    ending: Ending
    began: float | None
    ended: float | None
    attempts: tuple[Attempt, ...]
    settings: dict[str, Any]
    changes: tuple[Change, ...]
    data: Data
    curves: Curves
    losses: dict[str, MetricSummary]  # total, and every metric
    unavailable: dict[str, str]  # metric -> code of why it has no value at all
    validation_is_held_out: bool | None  # None: there is no validation loss
    speed: Speed
    use: Recommendation
    over_training: OverTraining
    memorisation: Memorisation
    samples: tuple[SampleRow, ...]
    repeated_steps: int
    warnings: tuple[Warned, ...]
    environment: dict[str, Any]
    noise_levels: tuple[float, ...] = ()  # share of the examples by level, by the newest start; of flow matching
    files: tuple[FileRecord, ...] = field(default=())

    @property
    def interruptions(self) -> int:
        """The number of attempts that ended without a stop request before their work was done."""
        return sum(attempt.is_interrupted for attempt in self.attempts)

    @property
    def restarts(self) -> int:
        """The number of attempts that the supervisor started after a failure."""
        return sum(attempt.is_restart for attempt in self.attempts)

    @property
    def cancelled_steps(self) -> int:
        """The number of steps that were completed, then done again from an earlier state."""
        return sum(attempt.cancelled_steps for attempt in self.attempts)


def summary_of(
    events: Iterable[Event], supervisor_events: Sequence[Event], *, present: Collection[str] | None = None
) -> RunSummary:
    """Returns the summary of a run from its two ledgers. `present` are the names that lie in its folder now; None:
    unknown.
    """
    return summary_of_fold(fold_of(events), supervisor_events, present=present)


def summary_of_fold(
    fold: RunFold, supervisor_events: Sequence[Event], *, present: Collection[str] | None = None
) -> RunSummary:
    """Returns the summary as far as the ledger has been folded."""
    curves, starts = fold.curves(), fold.starts
    newest = starts[-1] if starts else None
    resumed_from = 0 if newest is None else newest.resumed_from or 0
    done = curves.points[-1].step if curves.points else resumed_from
    attempts = attempts_of(fold.attempts, supervisor_events)
    files = recorded_files(fold.others, present)
    return RunSummary(
        curves=curves,
        asked_steps=None if newest is None else newest.stop_at - resumed_from,
        stop_at=curves.stop_at,
        done=done,
        is_finished=curves.stop_at is not None and done >= curves.stop_at,
        attempts=attempts,
        ending=attempts[-1].ending if attempts else Ending("unknown"),
        began=attempts[0].began if attempts else None,
        ended=attempts[-1].ended if attempts else None,
        files=files,
        losses=summarize_metrics(curves),
        unavailable=why_unavailable(curves),
        validation_is_held_out=validation_is_held_out(curves),
        data=data_of(starts, curves),
        samples=samples_of(curves),
        use=recommend(curves, files),
        over_training=find_over_training(curves),
        memorisation=find_memorisation(curves),
        settings={} if newest is None else newest.settings,
        changes=tuple(
            Change(start.resumed_from or 0, option, *_pair(values))
            for start in starts
            for option, values in start.changed.items()
        ),
        speed=_speed(fold.others, curves, attempts),
        repeated_steps=sum(isinstance(event, StepRepeated) for event in fold.others),
        warnings=tuple(each_once(event for event in fold.others if isinstance(event, Warned))),
        environment=_environment(fold.others, newest),
        noise_levels=() if newest is None else tuple(newest.noise_levels),
    )


def each_once(warnings: Iterable[Warned]) -> list[Warned]:
    """Drops repeats: every start finds the same about the same dataset."""
    found: dict[str, Warned] = {}
    for warning in warnings:
        found.setdefault(f"{warning.code} {json.dumps(warning.fields, sort_keys=True)}", warning)
    return list(found.values())


def _pair(values: Sequence[Any]) -> tuple[Any, Any]:
    before, now = values
    return before, now


def _speed(others: Sequence[Event], curves: Curves, attempts: Sequence[Attempt]) -> Speed:
    points = curves.points
    seconds = [point.seconds for point in points]
    paces = [pace for point in points if (pace := pace_of(point)) is not None]
    rates = [pace.flops for pace in paces if pace.flops is not None]
    flops = median(rates) if rates else None
    slowest = max(points, key=lambda point: point.seconds, default=None)
    return Speed(
        steps=len(points),
        median_seconds=median(seconds) if points else None,
        mean_seconds=fsum(seconds) / len(points) if points else None,
        slowest_seconds=None if slowest is None else slowest.seconds,
        slowest_step=None if slowest is None else slowest.step,
        stepping_seconds=fsum(seconds),
        evaluating_seconds=fsum(event.seconds for event in others if isinstance(event, Evaluated)),
        saving_seconds=fsum(event.seconds for event in others if isinstance(event, CheckpointSaved)),
        wall_seconds=fsum(attempt.seconds for attempt in attempts),
        peak_memory=max((point.peak_memory for point in points), default=0),
        pictures_per_second=median(pace.pictures_per_second for pace in paces) if paces else None,
        flops=flops,
        share_of_peak=share_of_peak(flops, others),
        waited_seconds=fsum(point.waited_seconds for point in points),
        recordings=sum(point.recordings for point in points),
    )


def _environment(others: Sequence[Event], newest: RunStarted | None) -> dict[str, Any]:
    device = next((event for event in reversed(others) if isinstance(event, DeviceChosen)), None)
    chosen = {} if device is None else {"device_type": device.device, "precision": device.precision}
    return {**chosen, **({} if newest is None else newest.fingerprint)}
