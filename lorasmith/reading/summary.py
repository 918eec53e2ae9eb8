"""A whole run as data: everything a report says, in codes and numbers. A pure function of events.

Knows no file, no words and no drawing; JSON, PNG and HTML show what is here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from math import fsum
from typing import Any

from lorasmith.reading.attempts import Attempt, Ending, attempts_of
from lorasmith.reading.evaluations import METRICS, VALIDATION, is_held_out, reason_of, value_of
from lorasmith.reading.fold import Curves, curves_of
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
    StepCompleted,
    StepRepeated,
    Warned,
)
from lorasmith.runs.ledger import surviving

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
        return [one.times_seen for one in self.pictures if one.is_used]


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
    """A file the run wrote, with the SHA-256 the ledger has of it (of a state: of its manifest)."""

    kind: str  # export, best, state
    path: str  # from the run folder
    step: int
    sha256: str
    is_there: bool | None  # None: not looked


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Everything a report says."""

    asked_steps: int | None  # by the newest start
    stop_at: int | None
    done: int  # steps completed that count
    is_finished: bool
    ending: Ending
    began: float | None
    ended: float | None
    attempts: tuple[Attempt, ...]
    settings: dict[str, Any]
    changes: tuple[Change, ...]
    data: Data
    curves: Curves
    losses: dict[str, MetricSummary]  # total, and every measure
    unavailable: dict[str, str]  # measure -> code of why there is no number at all
    validation_is_held_out: bool | None  # None: not measured
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
        """Attempts that ended as nobody had asked for."""
        return sum(one.is_interrupted for one in self.attempts)


def summary_of(
    events: Sequence[Event], supervisor_events: Sequence[Event], *, present: Collection[str] | None = None
) -> RunSummary:
    """What a run came to. `present` names what lies in its folder now; None where nobody looked."""
    kept = surviving(events)
    curves = curves_of(events)
    attempts = attempts_of(events, supervisor_events)
    starts = [one for one in events if isinstance(one, RunStarted)]
    newest = starts[-1] if starts else None
    done = curves.points[-1].step if curves.points else 0
    held_out = [is_held_out(one) for one in curves.evaluations if value_of(one, VALIDATION) is not None]
    files = _files(kept, present)
    return RunSummary(
        asked_steps=None if newest is None else newest.stop_at - (newest.resumed_from or 0),
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
        data=_data(kept, starts, curves),
        curves=curves,
        losses=_losses(curves),
        unavailable={measure: code for measure in METRICS if (code := _why_never(curves, measure))},
        validation_is_held_out=any(held_out) if held_out else None,
        speed=_speed(kept, curves, attempts),
        use=recommended(curves, _usable(files), are_gone=any(one.kind != "state" for one in files)),
        over_training=over_training(curves),
        memorisation=memorisation(curves),
        samples=_samples(curves),
        repeated_steps=sum(isinstance(one, StepRepeated) for one in kept),
        warnings=_warnings(kept),
        environment=_environment(events, newest),
        files=files,
    )


def _warnings(kept: Sequence[Event]) -> tuple[Warned, ...]:
    """Each once: every start finds the same about the same dataset."""
    found: dict[str, Warned] = {}
    for one in kept:
        if isinstance(one, Warned):
            found.setdefault(f"{one.code} {json.dumps(one.fields, sort_keys=True)}", one)
    return tuple(found.values())


def _pair(values: Sequence[Any]) -> tuple[Any, Any]:
    before, now = values
    return before, now


def _data(kept: Sequence[Event], starts: Sequence[RunStarted], curves: Curves) -> Data:
    """Pictures of the newest start, each with how often the steps that count have shown it."""
    paths = {start.attempt: [str(one.get("path", "")) for one in start.examples] for start in starts}
    seen: Counter[str] = Counter()
    for event in kept:
        if isinstance(event, StepCompleted):
            known = paths.get(event.attempt, [])
            seen.update(known[number] for number in event.example_ids if 0 <= number < len(known))
    newest = starts[-1] if starts else None
    examples = newest.examples if newest else []
    pictures = [
        Picture(
            path=str(one.get("path", "")),
            times_seen=seen.pop(str(one.get("path", "")), 0),
            repeats=one.get("repeats"),
            bucket=tuple(one.get("bucket", ())),
            sha256=str(one.get("sha256", "")),
        )
        for one in examples
    ]
    pictures += [Picture(path, times, is_used=False) for path, times in sorted(seen.items())]
    buckets = Counter(one.bucket for one in pictures if len(one.bucket) == 2)
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
    averages = [one.average_loss for one in points]
    found = {TOTAL: summarize([one.step for one in points], [one.loss for one in points], smooth=averages)}
    for measure in METRICS:
        values = {one.step: value for one in curves.evaluations if (value := value_of(one, measure)) is not None}
        baseline = None if curves.baseline is None else value_of(curves.baseline, measure)
        found[measure] = summarize([*values], [*values.values()], baseline=baseline)
    return found


def _why_never(curves: Curves, measure: str) -> str:
    """The newest reason, where a measure was due and never taken."""
    if any(value_of(one, measure) is not None for one in curves.evaluations):
        return ""
    tried = [*curves.evaluations, *([curves.baseline] if curves.baseline else [])]
    return next((code for one in reversed(tried) if (code := reason_of(one, measure))), "")


def _speed(kept: Sequence[Event], curves: Curves, attempts: Sequence[Attempt]) -> Speed:
    seconds = [one.seconds for one in curves.points]
    typical, mean, slowest, slowest_step = seconds_of([one.step for one in curves.points], seconds)
    return Speed(
        steps=len(seconds),
        median_seconds=typical,
        mean_seconds=mean,
        slowest_seconds=slowest,
        slowest_step=slowest_step,
        stepping_seconds=fsum(seconds),
        evaluating_seconds=fsum(one.seconds for one in kept if isinstance(one, Evaluated)),
        saving_seconds=fsum(one.seconds for one in kept if isinstance(one, CheckpointSaved)),
        wall_seconds=fsum(one.seconds for one in attempts),
        peak_memory=max((one.peak_memory for one in kept if isinstance(one, StepCompleted)), default=0),
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
                row = SampleRow(row.example, row.prompt, row.seed, sample, row.by_step)
            else:
                row = SampleRow(
                    row.example, row.prompt, row.seed, row.baseline, {evaluation.step: sample, **row.by_step}
                )
            rows[sample_key(sample)] = row
    return tuple(rows.values())


def _files(kept: Sequence[Event], present: Collection[str] | None) -> tuple[FileRecord, ...]:
    """The newest record of each name, by step."""
    found: dict[str, FileRecord] = {}
    for event in kept:
        if isinstance(event, CheckpointSaved | AdapterExported | BestChosen):
            kind = "state" if isinstance(event, CheckpointSaved) else "export"
            if isinstance(event, BestChosen):
                kind = "best"
            is_there = None if present is None else event.path in present
            found[event.path] = FileRecord(kind, event.path, event.step, event.sha256, is_there)
    return tuple(sorted(found.values(), key=lambda one: (one.kind == "state", one.step, one.path)))


def _usable(files: Sequence[FileRecord]) -> list[Export]:
    """Exports that are not known to be gone; of a step the one whose name stays, the best first."""
    exports = [one for one in files if one.kind != "state" and one.is_there is not False]
    return [Export(one.step, one.path, one.sha256) for one in sorted(exports, key=lambda one: one.kind != "best")]


def _environment(events: Sequence[Event], newest: RunStarted | None) -> dict[str, Any]:
    device = next((one for one in reversed(events) if isinstance(one, DeviceChosen)), None)
    chosen = {} if device is None else {"device_type": device.device, "precision": device.precision}
    return {**chosen, **({} if newest is None else newest.fingerprint)}
