"""The rules of supervision: when a worker counts as stuck, when a run has used up its time, what follows an exit.

Pure: no process, no file, no clock. The caller reports what it has observed and how many seconds have passed.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lorasmith.errors import ExitCode
from lorasmith.runs.process_files import Heartbeat

FIRST_TIMES = 6  # stall limit in stall time-outs where no time is known: loading, compiling, an attempt's first step
MICRO_BATCHES = 20  # stall limit in median micro-batch times
SLOW_STEPS = 2.0  # a run still makes progress while its current step takes less than this many median steps
MAX_RESTARTS = 3  # in a row, without reaching a higher step
MAX_AT_ONCE_SECONDS = 1.0  # ten times the interval between two observations
MAX_REMEMBERED = 501  # durations that a median is taken of
DISK_CODES = frozenset({"disk_full", "disk_too_full"})
# Caching loads the encoders, so it is given as much time as loading.
LOADING = frozenset({"loading", "caching", "compiling"})


def stall_limit(stall_timeout: float, median_micro_batch: float, *, phase: str, has_stepped: bool) -> float:
    """Returns the seconds without a sign of life after which a worker counts as stuck.

    The supervisor and `lorasmith logs` use the same formula, each with its own measurements.

    `median_micro_batch`: seconds, 0 before the first measurement; `has_stepped`: this attempt has completed a step.
    """
    limit = max(stall_timeout, MICRO_BATCHES * median_micro_batch)
    return max(limit, FIRST_TIMES * stall_timeout) if phase in LOADING or not has_stepped else limit


def median_micro_batch(step_seconds: Sequence[float], accumulation_steps: int) -> float:
    """Returns the median seconds of a micro-batch for `stall_limit`, for readers of the ledger, which holds whole steps
    only. Counts the newest MAX_REMEMBERED steps; 0 where there is none.
    """
    recent = step_seconds[-MAX_REMEMBERED:]
    return statistics.median(recent) / accumulation_steps if recent else 0.0


@dataclass(slots=True)
class ObservedClock:
    """Counts the seconds in which the worker was observed.

    A supervisor that was stopped, or asleep with the whole machine, has observed nothing: of the time between two
    observations at most one second counts.
    """

    _last: float

    def passed(self, now: float) -> float:
        """Returns the seconds since the last call, 0 to 1."""
        seconds = min(max(0.0, now - self._last), MAX_AT_ONCE_SECONDS)
        self._last = now
        return seconds


class StallDetector:
    """The first rule: how long the training thread may go without a sign of life."""

    def __init__(self, stall_timeout: float) -> None:
        self._stall_timeout = stall_timeout
        self._last: Heartbeat | None = None
        self._durations: deque[float] = deque(maxlen=MAX_REMEMBERED)  # seconds of this run's micro-batches
        self._median = 0.0
        self._open_seconds = 0.0  # within the phase "step", since the last micro-batch was completed
        self._has_stepped = False
        self._has_measured = False  # a micro-batch since the last step
        self.seconds = 0.0  # since the last sign of life

    def attempt_began(self) -> None:
        self._last = None
        self._has_stepped = False
        self.seconds = 0.0

    def step_completed(self, seconds: float) -> None:
        """Records a step. It counts as one micro-batch if none was reported during it."""
        self._has_stepped = True
        if not self._has_measured:
            self._add(seconds)
        self._has_measured = False

    def observe(self, seconds: float, beat: Heartbeat | None) -> bool:
        """Records that `seconds` have passed and that `beat` is the newest heartbeat; None if it could not be read.

        Returns whether a step was completed whose event is not in the ledger yet, since the disk is full. Only then is
        the heartbeat believed instead of the ledger.
        """
        self.seconds += seconds
        self._open_seconds += seconds
        if beat is None or beat == self._last:
            return False
        last, self._last = self._last, beat
        self.seconds = 0.0
        if last is None or not last.phase == beat.phase == "step":
            self._open_seconds = 0.0
            return False
        # A step begins and ends with a beat of its own, so beats do not count micro-batches.
        if beat.micro_batches > last.micro_batches:
            self._add(self._open_seconds / (beat.micro_batches - last.micro_batches))
            self._open_seconds = 0.0
            self._has_measured = True
        return beat.waiting > 0 and beat.step > last.step

    @property
    def phase(self) -> str:
        return "loading" if self._last is None else self._last.phase

    @property
    def step(self) -> int:
        return 0 if self._last is None else self._last.step

    @property
    def waiting(self) -> int:
        """Events that are not in the ledger, since the disk is full."""
        return 0 if self._last is None else self._last.waiting

    @property
    def step_limit(self) -> float:
        """The limit within a step, in seconds."""
        return stall_limit(self._stall_timeout, self._median, phase="step", has_stepped=True)

    @property
    def limit(self) -> float:
        """The limit in the worker's present phase, in seconds."""
        return stall_limit(self._stall_timeout, self._median, phase=self.phase, has_stepped=self._has_stepped)

    @property
    def is_exceeded(self) -> bool:
        return self.seconds > self.limit

    def _add(self, seconds: float) -> None:
        self._durations.append(seconds)
        self._median = statistics.median(self._durations)


class DeferredLinesNotice:
    """Decides when to warn that events wait for a full disk: once, until a state is saved again."""

    def __init__(self) -> None:
        self._is_given = False

    def is_due(self, waiting: int) -> bool:
        is_due = waiting > 0 and not self._is_given
        self._is_given = self._is_given or is_due
        return is_due


class TimeBudget:
    """The whole-run limit: the seconds that all steps of a start may take, over all its attempts."""

    def __init__(self, max_seconds_per_step: float, steps: int, stall_timeout: float) -> None:
        self._least = FIRST_TIMES * stall_timeout
        self._step_seconds: deque[float] = deque(maxlen=MAX_REMEMBERED)
        self._done = 0.0  # seconds of steps that were completed, or begun by an attempt that has ended
        self._open = 0.0  # seconds of the current step
        self.limit = max(max_seconds_per_step * steps, self._least)
        self.since_step = 0.0  # seconds in steps since a step was completed; not reset by a restart
        self._has_moved = False  # a step was completed whose duration is not known yet

    def attempt_began(self) -> None:
        self._done += self._open
        self._open = 0.0

    def step_completed(self, seconds: float) -> None:
        """Records a step; `seconds` is without saving and evaluating."""
        self._done += seconds
        self._open = self.since_step = 0.0
        self._step_seconds.append(seconds)

    def moved(self) -> None:
        """Records a step whose duration is not known yet."""
        self.since_step = 0.0
        self._has_moved = True

    def observe(self, seconds: float, phase: str) -> None:
        """Records time; loading, caching, evaluating and saving do not count, since the first rule limits them."""
        if phase == "step":
            self._open += seconds
            self.since_step += seconds

    @property
    def spent(self) -> float:
        return self._done + self._open

    @property
    def seconds_per_step(self) -> float:
        """The median; 0 before the first step."""
        return statistics.median(self._step_seconds) if self._step_seconds else 0.0

    @property
    def is_exceeded(self) -> bool:
        return self.spent >= self.limit

    def is_moving(self, patience: float) -> bool:
        """Whether a step was completed in the last `patience` seconds, or in the time of two median steps."""
        if not self._step_seconds and not self._has_moved:
            return False
        return self.since_step <= max(patience, SLOW_STEPS * self.seconds_per_step)

    def raise_for(self, steps_left: int) -> None:
        """Extends the limit by twice the time that the remaining steps take at the measured pace."""
        self.limit = self.spent + max(self._least, SLOW_STEPS * self.seconds_per_step * steps_left)


@dataclass(frozen=True, slots=True)
class Ended:
    """The facts of an attempt that has ended."""

    status: int  # of the process; negative for a signal
    said: int | None = None  # the exit code in its RunStopped
    is_hung: bool = False  # it was ended, because it was silent
    is_over_limit: bool = False  # it was ended, because the run had no more time
    stop_requested: bool = False  # by a person
    is_complete: bool = False  # the last step was completed, saved and exported
    is_out_of_room: bool = False  # the run had begun, and by its last word, or by having none, the disk is full


Failure = Literal["crashed", "hung"]
FAILURE_EXITS: dict[Failure, ExitCode] = {"crashed": ExitCode.CRASHED, "hung": ExitCode.STUCK}
FINAL = frozenset(ExitCode) - frozenset(FAILURE_EXITS.values())


def meaning_of(ended: Ended) -> ExitCode | Failure:
    """Returns how an attempt ended: a final exit code, or a failure after which the worker may be restarted.

    The exit code that a worker reported counts, even if its process had to be ended afterwards.
    """
    if ended.said == ExitCode.FINISHED or (ended.stop_requested and ended.is_complete):
        return ExitCode.FINISHED
    if ended.is_over_limit:
        return ExitCode.STUCK
    said = ended.said
    if said == ExitCode.STOPPED and ended.is_hung and not ended.stop_requested:
        return "hung"  # it heard the request that was to end it
    if ended.is_out_of_room and ExitCode.BAD_INPUT in (said, ended.status):
        return ExitCode.NO_RESOURCE  # the user's to mend before a run, not in the middle of one
    if said is not None:
        if said in FINAL:
            return ExitCode(said)
        return ExitCode.CRASHED if ended.stop_requested else "crashed"
    if ended.stop_requested:  # its status tells of a disk so full that it took no last line
        return ExitCode.NO_RESOURCE if ended.status == ExitCode.NO_RESOURCE else ExitCode.STOPPED
    if ended.is_hung:
        return "hung"
    if ended.status == ExitCode.FINISHED and not ended.is_complete:
        return "crashed"  # by something that left the process as if all were well
    return ExitCode(ended.status) if ended.status in FINAL else "crashed"


class Restarts:
    """Limits the restarts of a worker: any number while the run reaches higher steps, three where it does not."""

    def __init__(self, first_step: int, *, no_restart: bool) -> None:
        self._no_restart = no_restart
        self._before = first_step  # the highest step at the last restart
        self.highest = first_step  # the highest step ever completed
        self.in_vain = 0  # restarts in a row since it grew

    def step_completed(self, step: int) -> None:
        self.highest = max(self.highest, step)

    def try_again(self) -> bool:
        """Counts a restart after a failure; False if no more are allowed."""
        if self.highest > self._before:
            self._before = self.highest
            self.in_vain = 0
        if self._no_restart or self.in_vain >= MAX_RESTARTS:
            return False
        self.in_vain += 1
        return True
