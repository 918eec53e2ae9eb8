"""What the last run in a folder did, as facts: where it stands, its losses, its files, what is wrong.

Knows no words and no screen. Nothing here is guessed: what is not known is None.
"""

from __future__ import annotations

import statistics
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lorasmith.reading.attempts import attempts_of
from lorasmith.runs.events import (
    AdapterExported,
    BestChosen,
    Event,
    GivenUp,
    RunStarted,
    RunStopped,
    StepRepeated,
    WorkerEnded,
)
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import read_events
from lorasmith.runs.locks import is_held
from lorasmith.runs.process_files import Heartbeat, read_heartbeat
from lorasmith.runs.states import SavedState, damage_in, find_states
from lorasmith.runtime.policy import REMEMBERED, stall_limit
from lorasmith.ui.measures import Measure, measures_of
from lorasmith.ui.run_reading import RunReader

Standing = Literal["none", "loading", "running", "ending", "stuck", "orphaned", "finished", "stopped", "failed", "died"]
GOING_ON = frozenset({"loading", "running", "ending", "stuck", "orphaned"})
REPORTS = "lora_training_*"
STAMP_LENGTH = len("YYYYMMDD_HHMMSS")


@dataclass(frozen=True, slots=True)
class Beat:
    """The last sign of life of the training thread."""

    step: int
    phase: str
    age_seconds: float
    limit_seconds: float  # older than this it counts as stuck


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong: the sentence `error.<code>` or `warning.<code>`."""

    kind: Literal["error", "warning"]
    code: str
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Steps:
    """All are completed optimizer steps."""

    asked: int  # the target
    done: int
    start_asked: int  # by the newest start
    start_done: int
    resumed_from: int | None
    repeated: int  # tries that were not counted: a number too large, memory that ran out
    cancelled: int  # done, then done again by a start that began before them


@dataclass(frozen=True, slots=True)
class Files:
    """Where everything is; paths that are not there are None or left out."""

    lora: Path | None
    lora_bytes: int
    lora_step: int | None
    best_lora: Path | None
    step_loras: tuple[Path, ...]
    states: tuple[SavedState, ...]  # highest step first
    damaged_states: tuple[Path, ...]
    samples: Path | None
    tensorboard: Path | None
    loss_log: Path | None
    reports: tuple[Path, ...]  # newest first
    backup: Path | None


@dataclass(frozen=True, slots=True)
class LastRun:
    """The answer to: what did the last run do?"""

    run: RunFolder
    standing: Standing
    beat: Beat | None
    ending: RunStopped | None
    steps: Steps
    measures: Mapping[str, Measure]  # total, average, visual, semantic, color, validation
    curve: tuple[tuple[int, float], ...]  # (step, average loss)
    best: BestChosen | None
    lr: dict[str, float]
    seconds_per_step: float | None
    training_seconds: float
    seconds_left: float | None  # while it runs
    device: str
    began: float | None  # wall clock, seconds since 1970, of the newest start
    newest: float | None  # of the newest step
    starts: int
    restarts: int  # by the supervisor, without being asked
    files: Files
    findings: tuple[Finding, ...]

    @property
    def is_going_on(self) -> bool:
        return self.standing in GOING_ON


def look(run: RunFolder, reader: RunReader, *, now: float) -> LastRun:
    """The facts at this moment; `now` is wall clock. Takes nothing, changes nothing, and may be called while it runs.

    Raises:
        OSError: something there cannot be read.
    """
    # In this order: what is written after the lock was let go of is nobody's, so nothing is missed.
    is_locked, is_worker_there = is_held(run.lock), is_held(run.worker_lock)
    is_staged = run.staging.exists()
    reader.read()
    starts = reader.starts
    start = starts[-1] if starts else None
    ending = reader.ending(start.attempt) if start is not None else None
    curves = reader.curves
    points = curves.points
    beat = _beat(run, [one.seconds for one in points[-REMEMBERED:]], is_staged=is_staged, start=start, now=now)
    own = read_events(run.supervisor_log)
    given_up = _given_up(own, start)
    standing = _standing(start, ending, beat, is_locked=is_locked, is_staged=is_staged)
    if standing in ("finished", "stopped", "failed", "died") and is_worker_there:
        standing = "orphaned"  # its supervisor is gone; it is about to see that
    elif standing in ("failed", "died") and given_up is not None:
        standing = "failed"
    done = points[-1].step if points else (start.resumed_from or 0 if start is not None else 0)
    pace = reader.pace.seconds_per_step or None
    files = _files(run, reader, start)
    steps = _steps(reader, start, done)
    return LastRun(
        run=run,
        standing=standing,
        beat=beat,
        ending=ending,
        steps=steps,
        measures=measures_of(curves, is_going_on=standing in GOING_ON),
        curve=tuple((one.step, one.average_loss) for one in points),
        best=curves.best,
        lr=dict(points[-1].lr) if points else {},
        seconds_per_step=pace if standing in GOING_ON else _mean([one.seconds for one in points]),
        training_seconds=sum(one.seconds for one in points),
        seconds_left=pace * max(0, steps.asked - done) if pace is not None and standing == "running" else None,
        device="" if reader.device is None else f"{reader.device.device} {reader.device.precision}",
        began=start.time if start is not None else None,
        newest=points[-1].time if points else None,
        starts=len(starts),
        restarts=sum(one.is_restart for one in attempts_of(reader.events, own)),
        files=files,
        findings=tuple(
            [
                *_how_it_ended(standing, given_up or ending, beat, steps, _status(own, start)),
                *_in_the_ledger(reader, standing, start, steps),
                *_in_the_files(files, standing, start),
            ]
        ),
    )


def _standing(
    start: RunStarted | None, ending: RunStopped | None, beat: Beat | None, *, is_locked: bool, is_staged: bool
) -> Standing:
    if is_locked:
        if beat is not None and beat.age_seconds > beat.limit_seconds:
            return "stuck"
        if is_staged or start is None:
            return "loading"
        return "ending" if ending is not None else "running"
    if start is None:
        return "none"
    if ending is not None:
        return {"reached": "finished", "asked": "stopped"}.get(ending.reason, "failed")  # type: ignore[return-value]
    return "died"


def _beat(
    run: RunFolder, seconds: Sequence[float], *, is_staged: bool, start: RunStarted | None, now: float
) -> Beat | None:
    """The newest beat and how old it may grow; None where there is none."""
    path = run.staging / run.heartbeat.name if is_staged else run.heartbeat
    beat: Heartbeat | None = read_heartbeat(path)
    if beat is None:
        return None
    try:
        moved = path.stat().st_mtime
    except FileNotFoundError:
        return None
    with suppress(FileNotFoundError):  # a start that has not come to its first beat is no older than its lock
        moved = max(moved, run.lock.stat().st_mtime)
    age = max(0.0, now - moved)
    stall_timeout, accumulation_steps = _settings(run.staging / run.config.name if is_staged else run.config)
    limit = stall_limit(
        stall_timeout,
        # The ledger holds whole steps; the rule counts the micro-batches that they are made of.
        statistics.median(seconds) / accumulation_steps if seconds else 0.0,
        phase=beat.phase,
        has_stepped=not is_staged and start is not None and beat.step > (start.resumed_from or 0),
    )
    return Beat(beat.step, beat.phase, age, limit)


def _settings(config: Path) -> tuple[float, int]:
    """The stall time-out and the micro-batches of a step, of the run's own settings."""
    try:
        plain = tomllib.loads(config.read_text(encoding="utf-8"))
        return float(plain["watch"]["stall_timeout"]), int(plain["training"]["accumulation_steps"])
    except (OSError, ValueError, KeyError, TypeError):
        from lorasmith.config import RunConfig  # the one place with defaults; it takes a moment to load

        return RunConfig().watch.stall_timeout, RunConfig().training.accumulation_steps


def _steps(reader: RunReader, start: RunStarted | None, done: int) -> Steps:
    if start is None:
        return Steps(0, 0, 0, 0, None, 0, 0)
    begun_at = start.resumed_from or 0
    return Steps(
        asked=start.stop_at,
        done=done,
        start_asked=max(0, start.stop_at - begun_at),
        start_done=max(0, done - begun_at),
        resumed_from=start.resumed_from,
        repeated=sum(isinstance(one, StepRepeated) for one in reader.events),
        cancelled=reader.steps_completed - len(reader.curves.points),
    )


def _files(run: RunFolder, reader: RunReader, start: RunStarted | None) -> Files:
    name = "last"
    if start is not None and start.settings:
        name = str(start.settings["export"]["name"])
    states, damaged = find_states(run.root)
    lora = run.export(name)
    exported = [one for one in reader.events if isinstance(one, AdapterExported) and one.path == lora.name]
    set_aside = run.root.glob("*.damaged*") if run.root.is_dir() else iter(())
    lora_bytes = _bytes(lora)
    return Files(
        lora=lora if lora_bytes else None,
        lora_bytes=lora_bytes,
        lora_step=exported[-1].step if exported and lora_bytes else None,
        best_lora=_there(run.root / f"{name}-best.safetensors"),
        step_loras=tuple(sorted(run.root.glob(f"{_plain(name)}-step*.safetensors"))),
        states=tuple(states),
        damaged_states=(*damaged, *sorted(set_aside)),
        samples=_there(run.samples),
        tensorboard=_there(run.tensorboard),
        loss_log=_there(run.loss_log),
        reports=tuple(_reports(run, reader.starts)),
        backup=_there(run.backup),
    )


def _reports(run: RunFolder, starts: Sequence[RunStarted]) -> list[Path]:
    """Those of this run, the newest first, each time's page first: what an older run left stays in the same folder."""
    if not run.training_logs.is_dir() or not starts:
        return []
    found = [one for one in run.training_logs.glob(REPORTS) if one.stat().st_mtime >= starts[0].time]
    return sorted(found, key=lambda path: (path.stem[-STAMP_LENGTH:], path.suffix == ".html"), reverse=True)


def _how_it_ended(
    standing: Standing, ending: RunStopped | GivenUp | None, beat: Beat | None, steps: Steps, status: int | None
) -> list[Finding]:
    if standing == "failed" and ending is not None:
        return [Finding("error", ending.code, dict(ending.fields))]
    if standing == "stuck" and beat is not None:
        age, limit = round(beat.age_seconds), round(beat.limit_seconds)
        return [Finding("error", "run_stuck", {"seconds": age, "limit": limit, "phase": beat.phase})]
    if standing == "died" and status is not None:
        return [Finding("error", "worker_died", {"status": status})]
    if standing == "died":
        return [Finding("error", "run_died", {"step": steps.done})]
    if standing == "orphaned":
        return [Finding("warning", "run_orphaned", {})]
    return []


def _in_the_ledger(reader: RunReader, standing: Standing, start: RunStarted | None, steps: Steps) -> list[Finding]:
    found = []
    if start is not None:
        found += [Finding("warning", one.code, dict(one.fields)) for one in reader.warnings(start.attempt)]
    if reader.is_torn and standing not in GOING_ON:
        found.append(Finding("warning", "ledger_torn", {}))
    if reader.unreadable:
        found.append(Finding("warning", "ledger_unreadable", {"count": reader.unreadable}))
    if reader.unknown:
        found.append(Finding("warning", "ledger_unknown", {"count": reader.unknown}))
    count = len(reader.curves.points)
    if missing := steps.done - count if count else 0:
        found.append(Finding("warning", "ledger_steps_missing", {"count": missing, "done": steps.done}))
    return found


def _in_the_files(files: Files, standing: Standing, start: RunStarted | None) -> list[Finding]:
    found = [
        Finding("warning", "state_unusable", {"path": str(path), "damage": damage_in(path)})
        for path in files.damaged_states
    ]
    if start is not None and standing not in GOING_ON:
        if files.lora is None and standing != "died":
            found.append(Finding("warning", "lora_missing", {}))
        if not files.states:
            found.append(Finding("warning", "states_missing", {}))
    return found


def _given_up(own: Sequence[Event], start: RunStarted | None) -> GivenUp | None:
    """The supervisor's last word about the newest start."""
    return next(
        (one for one in own if isinstance(one, GivenUp) and start is not None and one.attempt >= start.attempt), None
    )


def _status(own: Sequence[Event], start: RunStarted | None) -> int | None:
    """The exit status of the newest start's worker process, where its supervisor lived to see it."""
    ended = [one for one in own if isinstance(one, WorkerEnded) and start is not None and one.attempt == start.attempt]
    return ended[-1].status if ended else None


def _bytes(path: Path) -> int:
    """0 where there is no file: a run may take it away at any moment."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _there(path: Path) -> Path | None:
    return path if path.exists() else None


def _plain(name: str) -> str:
    """A name in a pattern, where brackets would mean something."""
    return name.replace("[", "[[]")


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None
