"""The state of a run at this moment: its summary, whether it still runs, its files and what is wrong.

Knows no words and no screen. Nothing is guessed: what is not known is None.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lorasmith.config import ExportConfig
from lorasmith.reading.attempts import Ending
from lorasmith.reading.files import RunFiles, find_files
from lorasmith.reading.fold import Point, RunFold
from lorasmith.reading.metrics import METRICS, VALIDATION, MetricSummary, summarize, value_of
from lorasmith.reading.reader import RunReader
from lorasmith.reading.summary import RunSummary, each_once
from lorasmith.runs.events import Evaluated, RunStarted, RunStopped, Warned
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import Follower
from lorasmith.runs.locks import is_held
from lorasmith.runs.naming import FileNames
from lorasmith.runs.process_files import read_heartbeat
from lorasmith.runs.states import damage_in
from lorasmith.runtime.policy import median_micro_batch, stall_limit

Standing = Literal["none", "loading", "running", "ending", "stuck", "orphaned", "finished", "stopped", "failed", "died"]
GOING_ON = frozenset({"loading", "running", "ending", "stuck", "orphaned"})


@dataclass(frozen=True, slots=True)
class Beat:
    """The newest heartbeat of the training thread."""

    step: int
    phase: str
    age_seconds: float
    limit_seconds: float  # older than this it counts as stuck


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that is wrong: the sentence `error.<code>` or `warning.<code>`."""

    kind: Literal["error", "warning"]
    code: str
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunStatus:
    """The answer to: what did the last run do?"""

    run: RunFolder
    standing: Standing
    beat: Beat | None
    start: RunStarted | None  # the newest
    stopped: RunStopped | None  # the newest start's own ending
    starts: int
    summary: RunSummary
    metrics: Mapping[str, MetricSummary]  # total, average, visual, semantic, color, validation
    unavailable: Mapping[str, str]  # metric -> code of why it has no value
    seconds_per_step: float | None
    seconds_left: float | None  # while it runs
    files: RunFiles
    notices: tuple[Notice, ...]

    @property
    def is_going_on(self) -> bool:
        return self.standing in GOING_ON

    @property
    def newest(self) -> Point | None:
        """The newest completed step."""
        return self.summary.curves.points[-1] if self.summary.curves.points else None

    @property
    def newest_validation(self) -> Evaluated | None:
        """The newest evaluation that has a validation loss."""
        evaluations = reversed(self.summary.curves.evaluations)
        return next((event for event in evaluations if value_of(event, VALIDATION) is not None), None)

    @property
    def resumed_from(self) -> int | None:
        return None if self.start is None else self.start.resumed_from

    @property
    def start_done(self) -> int:
        """The number of steps that the newest start has completed."""
        return max(0, self.summary.done - (self.resumed_from or 0))

    @property
    def device(self) -> str:
        """The device and the precision; "" where they are not known."""
        environment = self.summary.environment
        return f"{environment['device_type']} {environment['precision']}" if "device_type" in environment else ""


def read_status(reader: RunReader, *, now: float) -> RunStatus:
    """Returns the status at this moment; `now` is wall clock. Changes nothing, and may be called while the run goes on.

    Raises:
        OSError: something there cannot be read.
    """
    # The locks first: an ending that is written between the two reads is then seen.
    run = reader.run
    is_locked, is_worker_there = is_held(run.lock), is_held(run.worker_lock)
    is_staged = run.staging.exists()
    reader.read()
    summary, starts = reader.summary(), reader.fold.starts
    start = starts[-1] if starts else None
    stopped = None if start is None else reader.fold.attempts[start.attempt].stopped
    beat = _beat(run, reader.fold, is_staged=is_staged, start=start, now=now)
    ending = _ending(summary, start)
    standing = _standing_of_ending(ending)
    if is_locked:
        standing = _standing_while_locked(start, stopped, beat, is_staged=is_staged)
    elif is_worker_there and start is not None:
        standing = "orphaned"  # its supervisor is gone; the worker is about to notice and end
    is_going_on = standing in GOING_ON
    pace = reader.fold.seconds_per_step or None
    files = find_files(_names(run, summary), summary.files, first_start=starts[0] if starts else None)
    notices = [
        *_notices_of_ending(standing, ending, beat, summary),
        *_notices_of_ledger(reader.lines, reader.fold, summary, start, is_going_on=is_going_on),
        *_notices_of_files(files, standing, start),
    ]
    return RunStatus(
        run=run,
        standing=standing,
        beat=beat,
        start=start,
        stopped=stopped,
        starts=len(starts),
        summary=summary,
        metrics=_metrics(summary),
        unavailable=_unavailable(summary, is_going_on=is_going_on),
        seconds_per_step=pace if is_going_on else summary.speed.mean_seconds,
        seconds_left=pace * max(0, (summary.stop_at or 0) - summary.done) if pace and standing == "running" else None,
        files=files,
        notices=tuple(notices),
    )


def _standing_while_locked(
    start: RunStarted | None, stopped: RunStopped | None, beat: Beat | None, *, is_staged: bool
) -> Standing:
    if beat is not None and beat.age_seconds > beat.limit_seconds:
        return "stuck"
    if is_staged or start is None:
        return "loading"
    return "running" if stopped is None else "ending"


def _standing_of_ending(ending: Ending | None) -> Standing:
    if ending is None:
        return "none"
    standings: dict[str, Standing] = {"reached": "finished", "asked": "stopped", "died": "died", "unknown": "died"}
    return standings.get(ending.reason, "failed")


def _ending(summary: RunSummary, start: RunStarted | None) -> Ending | None:
    """How the newest start ended. Where it went wrong, the supervisor may have given up in a later attempt that never
    got as far as a start.
    """
    if start is None:
        return None
    own, *later = (attempt.ending for attempt in summary.attempts if attempt.number >= start.attempt)
    if own.reason in ("reached", "asked"):
        return own
    return next((ending for ending in later if ending.reason == "failed"), own)


def _names(run: RunFolder, summary: RunSummary) -> FileNames:
    """The names of the run's files, as its newest start recorded them."""
    recorded = summary.settings["export"] if summary.settings else {}
    kept = {name: recorded[name] for name in ("name", "naming") if name in recorded}  # other versions have other fields
    return FileNames(run, ExportConfig(**kept))


def _beat(run: RunFolder, fold: RunFold, *, is_staged: bool, start: RunStarted | None, now: float) -> Beat | None:
    """The newest heartbeat and how old it may grow; None where there is none."""
    path = run.staging / run.heartbeat.name if is_staged else run.heartbeat
    beat = read_heartbeat(path)
    if beat is None:
        return None
    try:
        moved = path.stat().st_mtime
    except FileNotFoundError:
        return None
    with suppress(FileNotFoundError):  # a start without a heartbeat of its own is as old as its lock
        moved = max(moved, run.lock.stat().st_mtime)
    stall_timeout, accumulation_steps = _settings(run.staging / run.config.name if is_staged else run.config)
    limit = stall_limit(
        stall_timeout,
        median_micro_batch(_step_seconds(fold, start), accumulation_steps),
        phase=beat.phase,
        has_stepped=not is_staged and start is not None and beat.step > (start.resumed_from or 0),
    )
    return Beat(beat.step, beat.phase, max(0.0, now - moved), limit)


def _step_seconds(fold: RunFold, start: RunStarted | None) -> list[float]:
    """Durations of the steps since the newest attempt began: earlier starts may have had other micro-batches."""
    return [] if start is None else [point.seconds for point in fold.points if point.attempt >= start.attempt]


def _settings(config: Path) -> tuple[float, int]:
    """The run's stall time-out and the micro-batches of a step."""
    try:
        plain = tomllib.loads(config.read_text(encoding="utf-8"))
        return float(plain["watch"]["stall_timeout"]), int(plain["training"]["accumulation_steps"])
    except (OSError, ValueError, KeyError, TypeError):
        from lorasmith.config import RunConfig  # the only place with defaults; it takes a moment to load

        return RunConfig().watch.stall_timeout, RunConfig().training.accumulation_steps


def _metrics(summary: RunSummary) -> dict[str, MetricSummary]:
    points = summary.curves.points
    steps = [point.step for point in points]
    found = {
        "total": summarize(steps, [point.loss for point in points]),
        "average": summarize(steps, [point.average_loss for point in points]),
    }
    return found | {metric: summary.losses[metric] for metric in METRICS}


def _unavailable(summary: RunSummary, *, is_going_on: bool) -> dict[str, str]:
    found = {} if summary.curves.points else dict.fromkeys(("total", "average"), "not_yet")
    otherwise = "not_yet" if is_going_on else "not_measured"
    missing = [metric for metric in METRICS if not summary.losses[metric].count]
    return found | {metric: summary.unavailable.get(metric, otherwise) for metric in missing}


def _notices_of_ending(
    standing: Standing, ending: Ending | None, beat: Beat | None, summary: RunSummary
) -> Iterator[Notice]:
    if standing == "failed" and ending is not None:
        yield Notice("error", ending.code, dict(ending.fields))
    elif standing == "stuck" and beat is not None:
        age, limit = round(beat.age_seconds), round(beat.limit_seconds)
        yield Notice("error", "run_stuck", {"seconds": age, "limit": limit, "phase": beat.phase})
    elif standing == "died" and ending is not None and ending.status is not None:
        yield Notice("error", "worker_died", {"status": ending.status})
    elif standing == "died":
        yield Notice("error", "run_died", {"step": summary.done})
    elif standing == "orphaned":
        yield Notice("warning", "run_orphaned", {})


def _notices_of_ledger(
    lines: Follower, fold: RunFold, summary: RunSummary, start: RunStarted | None, *, is_going_on: bool
) -> Iterator[Notice]:
    attempt = None if start is None else start.attempt
    warned = [event for event in fold.others if isinstance(event, Warned) and event.attempt == attempt]
    for event in each_once(warned):
        yield Notice("warning", event.code, dict(event.fields))
    if lines.is_torn and not is_going_on:
        yield Notice("warning", "ledger_torn", {})
    if lines.unreadable:
        yield Notice("warning", "ledger_unreadable", {"count": lines.unreadable})
    if lines.unknown:
        yield Notice("warning", "ledger_unknown", {"count": lines.unknown})
    count = len(fold.points)
    if missing := summary.done - count if count else 0:
        yield Notice("warning", "ledger_steps_missing", {"count": missing, "done": summary.done})


def _notices_of_files(files: RunFiles, standing: Standing, start: RunStarted | None) -> Iterator[Notice]:
    for path in files.damaged_states:
        yield Notice("warning", "state_unusable", {"path": str(path), "damage": damage_in(path)})
    if start is None or standing in GOING_ON:
        return
    if files.lora is None and standing != "died":
        yield Notice("warning", "lora_missing", {})
    if not files.states:
        yield Notice("warning", "states_missing", {})
