"""The attempts of a run and how each ended, from the worker's ledger and the supervisor's. Knows no words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lorasmith.reading.fold import AttemptLog
from lorasmith.runs.events import (
    Event,
    GivenUp,
    RunStopped,
    WorkerEnded,
    WorkerRestarted,
    WorkerStarted,
)


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of an attempt: the sentence `ending.<reason>`."""

    reason: str  # reached, asked, failed; died: it wrote no ending; unknown: no ending was written
    code: str = ""  # of the error, where it failed
    fields: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    status: int | None = None  # of the process, negative for a signal
    output: str = ""  # the last lines that it printed, where it went wrong


@dataclass(frozen=True, slots=True)
class Happening:
    """Another event that the supervisor wrote, as a hang with its stack."""

    kind: str  # name of the event
    time: float
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One worker process, from its start to its end."""

    number: int
    began: float | None  # wall clock, seconds since 1970
    ended: float | None
    is_restart: bool  # started by the same supervisor as the attempt before, not by a person
    resumed_from: int | None  # the step of the state; None: a new run, or it never loaded
    stop_at: int | None  # None: it never loaded
    last_step: int | None  # the last completed step; None: there is none
    cancelled_steps: int  # completed, then done again by later attempts
    changed: dict[str, list[Any]]  # option -> [before, now]
    ending: Ending
    happenings: tuple[Happening, ...] = ()

    @property
    def is_interrupted(self) -> bool:
        """Whether it ended without a stop request before its work was done."""
        return self.ending.reason not in ("reached", "asked")

    @property
    def seconds(self) -> float:
        """From start to end, as far as both are known."""
        return max(0.0, self.ended - self.began) if self.began is not None and self.ended is not None else 0.0


def attempts_of(logs: Mapping[int, AttemptLog], supervisor_events: Sequence[Event]) -> tuple[Attempt, ...]:
    """Returns every attempt that either ledger knows, in order."""
    watching: dict[int, list[Event]] = {}
    for event in supervisor_events:
        watching.setdefault(event.attempt, []).append(event)
    numbers = sorted({*logs, *watching})
    return tuple(_attempt(logs.get(number) or AttemptLog(number), watching.get(number, [])) for number in numbers)


def _attempt(log: AttemptLog, watching: list[Event]) -> Attempt:
    start = log.start
    times = [*log.times, *(event.time for event in watching)]
    happenings = [
        Happening(type(event).__name__, event.time, _fields(event))
        for event in watching
        if not isinstance(event, WorkerStarted | WorkerEnded | GivenUp)
    ]
    return Attempt(
        number=log.number,
        began=min(times, default=None),
        ended=max(times, default=None),
        is_restart=any(isinstance(event, WorkerRestarted) for event in watching),
        resumed_from=None if start is None else start.resumed_from,
        stop_at=None if start is None else start.stop_at,
        last_step=log.last_step,
        cancelled_steps=log.cancelled_steps,
        changed={} if start is None else dict(start.changed),
        ending=_ending(log.stopped, watching),
        happenings=tuple(happenings),
    )


def _ending(stopped: RunStopped | None, watching: list[Event]) -> Ending:
    """Prefers the supervisor's decision to give up, then the worker's own ending, then its exit status."""
    ended = next((event for event in reversed(watching) if isinstance(event, WorkerEnded)), None)
    given_up = next((event for event in reversed(watching) if isinstance(event, GivenUp)), None)
    status, output = (None, "") if ended is None else (ended.status, ended.output)
    if given_up is not None:
        return Ending("failed", given_up.code, dict(given_up.fields), given_up.exit_code, status, output)
    if stopped is not None:
        return Ending(stopped.reason, stopped.code, dict(stopped.fields), stopped.exit_code, status, output)
    return Ending("unknown") if ended is None else Ending("died", status=status, output=output)


def _fields(event: Event) -> dict[str, Any]:
    return {name: value for name, value in asdict(event).items() if name not in ("attempt", "time")}
