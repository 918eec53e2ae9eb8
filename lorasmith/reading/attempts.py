"""The starts of a run and how each ended, folded from the worker's ledger and the supervisor's. Knows no words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lorasmith.runs.events import (
    Event,
    GivenUp,
    RunStarted,
    RunStopped,
    StepCompleted,
    WorkerEnded,
    WorkerRestarted,
    WorkerStarted,
)


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended: the sentence `ending.<reason>`."""

    reason: str  # reached, asked, failed; died: gone without a word; unknown: nobody wrote an end
    code: str = ""  # of the error, where it failed
    fields: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    status: int | None = None  # of the process, negative for a signal
    output: str = ""  # the end of what it printed, where it went wrong


@dataclass(frozen=True, slots=True)
class Happening:
    """Something else the supervisor wrote down, as a hang with its stack."""

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
    resumed_from: int | None  # the step of the state; None: new, or it never loaded
    stop_at: int | None  # None: it never loaded
    last_step: int | None  # the last one completed, None: none
    cancelled_steps: int  # of those it completed, done again by later attempts
    changed: dict[str, list[Any]]  # option -> [before, now]
    ending: Ending
    happenings: tuple[Happening, ...] = ()

    @property
    def is_interrupted(self) -> bool:
        """Whether it ended as nobody had asked for."""
        return self.ending.reason not in ("reached", "asked")

    @property
    def seconds(self) -> float:
        """From start to end, as far as both are known."""
        return max(0.0, self.ended - self.began) if self.began is not None and self.ended is not None else 0.0


def attempts_of(events: Sequence[Event], supervisor_events: Sequence[Event]) -> tuple[Attempt, ...]:
    """Every attempt that either ledger knows, in order."""
    numbers = sorted({one.attempt for one in [*events, *supervisor_events]})
    found: list[Attempt] = []
    for number in numbers:
        own = [one for one in events if one.attempt == number]
        watching = [one for one in supervisor_events if one.attempt == number]
        later = [one for one in events if isinstance(one, RunStarted) and one.attempt > number]
        is_restart = any(isinstance(one, WorkerRestarted) for one in watching)
        found.append(_attempt(number, own, watching, later, is_restart=is_restart))
    return tuple(found)


def _attempt(
    number: int, own: list[Event], watching: list[Event], later: list[RunStarted], *, is_restart: bool
) -> Attempt:
    start = next((one for one in own if isinstance(one, RunStarted)), None)
    steps = [one.step for one in own if isinstance(one, StepCompleted)]
    kept = min([one.resumed_from for one in later if one.resumed_from is not None], default=max(steps, default=0))
    times = [one.time for one in [*own, *watching]]
    happenings = [
        Happening(type(one).__name__, one.time, _fields(one))
        for one in watching
        if not isinstance(one, WorkerStarted | WorkerEnded | GivenUp)
    ]
    return Attempt(
        number=number,
        began=min(times, default=None),
        ended=max(times, default=None),
        is_restart=is_restart,
        resumed_from=None if start is None else start.resumed_from,
        stop_at=None if start is None else start.stop_at,
        last_step=max(steps, default=None),
        cancelled_steps=sum(step > kept for step in set(steps)),
        changed={} if start is None else dict(start.changed),
        ending=_ending(own, watching),
        happenings=tuple(happenings),
    )


def _ending(own: list[Event], watching: list[Event]) -> Ending:
    """What the supervisor gave up is given up; else a worker that said how it ended is believed; else its exit status
    tells what little it can."""
    said = next((one for one in reversed(own) if isinstance(one, RunStopped)), None)
    gone = next((one for one in reversed(watching) if isinstance(one, WorkerEnded)), None)
    given_up = next((one for one in reversed(watching) if isinstance(one, GivenUp)), None)
    status, output = (None, "") if gone is None else (gone.status, gone.output)
    if given_up is not None:
        return Ending("failed", given_up.code, dict(given_up.fields), given_up.exit_code, status, output)
    if said is not None:
        return Ending(said.reason, said.code, dict(said.fields), said.exit_code, status, output)
    return Ending("unknown") if gone is None else Ending("died", status=status, output=output)


def _fields(event: Event) -> dict[str, Any]:
    return {name: value for name, value in asdict(event).items() if name not in ("attempt", "time")}
