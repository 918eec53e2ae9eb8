"""A whole run as data: everything that a report or a screen shows of it, in codes and numbers.

A pure function of the two ledgers' events. Knows no file, no words and no drawing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import fsum
from typing import Any

from lorasmith.reading.attempts import Attempt, Ending, attempts_of
from lorasmith.reading.evaluations import METRICS, VALIDATION, is_held_out, reason_of, value_of
from lorasmith.reading.fold import Curves, RunFold, fold_of
from lorasmith.reading.statistics import MetricSummary, Speed, seconds_of, summarize
from lorasmith.reading.verdicts import (
    Export,
    Memorisation,
    OverTraining,
    Recommendation,
    memorisation,
    over_training,
    recommended,
    sample_key,
)
from lorasmith.runs.events import (
    AdapterExported,
    BestChosen,
    CheckpointSaved,
    DeviceChosen,
    Evaluated,
    Event,
    RunStarted,
    StepRepeated,
    Warned,
)

TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that a --continue changed; it holds for the steps after `after_step`."""

    after_step: int
    option: str
    before: Any
    now: Any


@dataclass(frozen=True, slots=True)
class Picture:
    """An example of the newest start, or one that was seen before it."""

    path: str
    times_seen: int
    repeats: int | None = None
    bucket: tuple[int, ...] = ()  # width, height in pixels
    sha256: str = ""
    is_used: bool = True  # False: an earlier start trained on it, the newest one did not


@dataclass(frozen=True, slots=True)
class Data:
    """What was trained on."""

    folder: str
    pictures: tuple[Picture, ...]
    held_out: tuple[str, ...]
    buckets: tuple[tuple[int, int, int], ...]  # width, height, pictures
    batches_per_epoch: int
    epoch: int  # of the newest step

    @property
    def times_seen(self) -> list[int]:
        return [picture.times_seen for picture in self.pictures if picture.is_used]


@dataclass(frozen=True, slots=True)
class SampleRow:
    """The samples of one caption and seed, by step."""

    example: str | None  # path of the picture they are compared with
    prompt: str
    seed: int | None
    baseline: dict[str, Any] | None  # the sample with the adapter off
    by_step: dict[int, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file that the run wrote, with its SHA-256 from the ledger (a state's is that of its manifest)."""

    kind: str  # export, best, state
    path: str  # from the run folder
    step: int
    sha256: str
    is_there: bool | None  # None: unknown


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
    files: tuple[FileRecord, ...] = field(default=())

    @property
    def interruptions(self) -> int:
        """The number of attempts that ended although nobody asked for it."""
        return sum(attempt.is_interrupted for attempt in self.attempts)

    @property
    def restarts(self) -> int:
        """The number of attempts that the supervisor started because the one before had failed."""
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
    curves = fold.curves()
    attempts = attempts_of(fold.attempts, supervisor_events)
    starts = fold.starts
    newest = starts[-1] if starts else None
    resumed_from = 0 if newest is None else newest.resumed_from or 0
    done = curves.points[-1].step if curves.points else resumed_from
    held_out = [is_held_out(event) for event in curves.evaluations if value_of(event, VALIDATION) is not None]
    files = _files(fold.others, present)
    return RunSummary(
        asked_steps=None if newest is None else newest.stop_at - resumed_from,
        stop_at=curves.stop_at,
        done=done,
        is_finished=curves.stop_at is not None and done >= curves.stop_at,
        ending=attempts[-1].ending if attempts else Ending("unknown"),
        began=attempts[0].began if attempts else None,
        ended=attempts[-1].ended if attempts else None,
        attempts=attempts,
        settings={} if newest is None else newest.settings,
        changes=tuple(
            Change(start.resumed_from or 0, option, *_pair(values))
            for start in starts
            for option, values in start.changed.items()
        ),
        data=_data(starts, curves),
        curves=curves,
        losses=_losses(curves),
        unavailable={metric: code for metric in METRICS if (code := _why_never(curves, metric))},
        validation_is_held_out=any(held_out) if held_out else None,
        speed=_speed(fold.others, curves, attempts),
        use=recommended(curves, _usable(files), are_gone=any(file.kind != "state" for file in files)),
        over_training=over_training(curves),
        memorisation=memorisation(curves),
        samples=_samples(curves),
        repeated_steps=sum(isinstance(event, StepRepeated) for event in fold.others),
        warnings=tuple(each_once(event for event in fold.others if isinstance(event, Warned))),
        environment=_environment(fold.others, newest),
        files=files,
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


def _data(starts: Sequence[RunStarted], curves: Curves) -> Data:
    """The pictures of the newest start, each with how often the steps that count have shown it."""
    paths = {start.attempt: [str(example.get("path", "")) for example in start.examples] for start in starts}
    shown = Counter((point.event.attempt, number) for point in curves.points for number in point.event.example_ids)
    seen: Counter[str] = Counter()
    for (attempt, number), times in shown.items():
        known = paths.get(attempt, [])
        if 0 <= number < len(known):
            seen[known[number]] += times
    newest = starts[-1] if starts else None
    examples = newest.examples if newest else []
    pictures = [
        Picture(
            path=str(example.get("path", "")),
            times_seen=seen.pop(str(example.get("path", "")), 0),
            repeats=example.get("repeats"),
            bucket=tuple(example.get("bucket", ())),
            sha256=str(example.get("sha256", "")),
        )
        for example in examples
    ]
    pictures += [Picture(path, times, is_used=False) for path, times in sorted(seen.items())]
    buckets = Counter(picture.bucket for picture in pictures if len(picture.bucket) == 2)
    return Data(
        folder=str(newest.settings.get("dataset", {}).get("folder", "")) if newest else "",
        pictures=tuple(pictures),
        held_out=tuple(newest.held_out) if newest else (),
        buckets=tuple((width, height, count) for (width, height), count in sorted(buckets.items())),
        batches_per_epoch=newest.batches_per_epoch if newest else 0,
        epoch=curves.points[-1].epoch if curves.points else 0,
    )


def _losses(curves: Curves) -> dict[str, MetricSummary]:
    points = curves.points
    averages = [point.average_loss for point in points]
    found = {TOTAL: summarize([point.step for point in points], [point.loss for point in points], smooth=averages)}
    for metric in METRICS:
        values = {event.step: value for event in curves.evaluations if (value := value_of(event, metric)) is not None}
        baseline = None if curves.baseline is None else value_of(curves.baseline, metric)
        found[metric] = summarize([*values], [*values.values()], baseline=baseline)
    return found


def _why_never(curves: Curves, metric: str) -> str:
    """The newest reason code of a metric that was due and has no value at all."""
    if any(value_of(event, metric) is not None for event in curves.evaluations):
        return ""
    tried = [*reversed(curves.evaluations), *([curves.baseline] if curves.baseline else [])]
    return next((code for event in tried if (code := reason_of(event, metric))), "")


def _speed(others: Sequence[Event], curves: Curves, attempts: Sequence[Attempt]) -> Speed:
    seconds = [point.seconds for point in curves.points]
    typical, mean, slowest, slowest_step = seconds_of([point.step for point in curves.points], seconds)
    return Speed(
        steps=len(seconds),
        median_seconds=typical,
        mean_seconds=mean,
        slowest_seconds=slowest,
        slowest_step=slowest_step,
        stepping_seconds=fsum(seconds),
        evaluating_seconds=fsum(event.seconds for event in others if isinstance(event, Evaluated)),
        saving_seconds=fsum(event.seconds for event in others if isinstance(event, CheckpointSaved)),
        wall_seconds=fsum(attempt.seconds for attempt in attempts),
        peak_memory=max((point.event.peak_memory for point in curves.points), default=0),
    )


def _samples(curves: Curves) -> tuple[SampleRow, ...]:
    """One row for each picture, caption and seed, in the order of the newest evaluation that has it."""
    rows: dict[tuple[str, str, str], SampleRow] = {}
    for evaluation in [*reversed(curves.evaluations), *([curves.baseline] if curves.baseline else [])]:
        for sample in evaluation.samples:
            row = rows.get(sample_key(sample))
            if row is None:
                row = SampleRow(sample.get("example"), str(sample.get("prompt", "")), sample.get("seed"), None, {})
            if evaluation.is_control:
                row = replace(row, baseline=sample)
            else:
                row = replace(row, by_step={evaluation.step: sample, **row.by_step})
            rows[sample_key(sample)] = row
    return tuple(rows.values())


def _files(others: Sequence[Event], present: Collection[str] | None) -> tuple[FileRecord, ...]:
    """The newest record of each name, by step."""
    found: dict[str, FileRecord] = {}
    for event in others:
        if isinstance(event, CheckpointSaved | AdapterExported | BestChosen):
            kind = "state" if isinstance(event, CheckpointSaved) else "export"
            if isinstance(event, BestChosen):
                kind = "best"
            is_there = None if present is None else event.path in present
            found[event.path] = FileRecord(kind, event.path, event.step, event.sha256, is_there)
    return tuple(sorted(found.values(), key=lambda file: (file.kind == "state", file.step, file.path)))


def _usable(files: Sequence[FileRecord]) -> list[Export]:
    """The exports that are not known to be gone; of a step the file whose name stays, the best first."""
    exports = [file for file in files if file.kind != "state" and file.is_there is not False]
    return [Export(file.step, file.path, file.sha256) for file in sorted(exports, key=lambda file: file.kind != "best")]


def _environment(others: Sequence[Event], newest: RunStarted | None) -> dict[str, Any]:
    device = next((event for event in reversed(others) if isinstance(event, DeviceChosen)), None)
    chosen = {} if device is None else {"device_type": device.device, "precision": device.precision}
    return {**chosen, **({} if newest is None else newest.fingerprint)}
