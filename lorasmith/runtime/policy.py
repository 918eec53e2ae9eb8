"""When a worker counts as stuck, when a run does, and what follows when a worker is gone: the rules alone.

Knows no process, no file and no clock: whoever watches says what it saw and how many seconds passed meanwhile.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lorasmith.errors import ExitCode
from lorasmith.runs.process_files import Heartbeat

FIRST_TIMES = 6  # so many stall time-outs for what has no measure yet: loading, compiling, an attempt's first step
MICRO_BATCHES = 20  # so many median micro-batches without a sign of life are one too many
SLOW_STEPS = 2.0  # a step may take so many times the median one before the whole-run limit counts it as none
MAX_RESTARTS = 3  # in a row, without a step that was not reached before
MAX_AT_ONCE_SECONDS = 1.0  # ten times as long as two looks are apart
REMEMBERED = 501
DISK_CODES = frozenset({"disk_full", "disk_too_full"})
# Encoders are loaded in the course of caching, so that has the patience of loading.
LOADING = frozenset({"loading", "caching", "compiling"})


def stall_limit(stall_timeout: float, median_micro_batch: float, *, phase: str, has_stepped: bool) -> float:
    """Seconds without a sign of life after which a worker counts as stuck. The supervisor ends it by this rule, and
    `lorasmith logs` shows it by this rule.

    `median_micro_batch`: seconds, 0 where none was measured; `has_stepped`: whether this attempt completed a step.
    """
    limit = max(stall_timeout, MICRO_BATCHES * median_micro_batch)
    return max(limit, FIRST_TIMES * stall_timeout) if phase in LOADING or not has_stepped else limit


def median_micro_batch(step_seconds: Sequence[float], accumulation_steps: int) -> float:
    """Returns the median seconds of a micro-batch for `stall_limit`, for readers of the ledger, which holds whole steps
    only. Counts the newest REMEMBERED steps; 0 where there is none.
    """
    recent = step_seconds[-REMEMBERED:]
    return statistics.median(recent) / accumulation_steps if recent else 0.0


@dataclass(slots=True)
class ObservedClock:
    """Seconds in which somebody looked. A watcher that was itself stopped, or asleep with the whole machine, has seen
    nothing: of the time between two looks no more than a second counts."""

    _last: float

    def passed(self, now: float) -> float:
        """Since the last look; never negative."""
        seconds = min(max(0.0, now - self._last), MAX_AT_ONCE_SECONDS)
        self._last = now
        return seconds


class StallDetector:
    """The first rule: how long the training thread may go without a sign of life."""

    def __init__(self, stall_timeout: float) -> None:
        self._stall_timeout = stall_timeout
        self._last: Heartbeat | None = None
        self._measured_seconds: deque[float] = deque(maxlen=REMEMBERED)  # of the micro-batches of this run
        self._median = 0.0
        self._open_seconds = 0.0  # within the phase "step", since the last micro-batch was done
        self._has_stepped = False
        self._was_measured = False  # since the last step
        self.seconds = 0.0  # since the last sign of life

    def attempt_began(self) -> None:
        self._last = None
        self._has_stepped = False
        self.seconds = 0.0

    def step_completed(self, seconds: float) -> None:
        """A step that took so long. Where no micro-batch was seen within it, it is the measure of itself."""
        self._has_stepped = True
        if not self._was_measured:
            self._measured(seconds)
        self._was_measured = False

    def look(self, seconds: float, beat: Heartbeat | None) -> bool:
        """`seconds` after the last look the newest beat is this; None: it could not be read, which says nothing.

        Whether a step was completed meanwhile whose line waits for room on the disk: the only time beats are believed
        in place of the ledger.
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
        # Beats are more than micro-batches: a step begins and ends with one of its own.
        if beat.micro_batches > last.micro_batches:
            self._measured(self._open_seconds / (beat.micro_batches - last.micro_batches))
            self._open_seconds = 0.0
            self._was_measured = True
        return beat.waiting > 0 and beat.step > last.step

    @property
    def phase(self) -> str:
        return "loading" if self._last is None else self._last.phase

    @property
    def step(self) -> int:
        return 0 if self._last is None else self._last.step

    @property
    def waiting(self) -> int:
        """Lines of the ledger that the disk has no room for."""
        return 0 if self._last is None else self._last.waiting

    @property
    def step_limit(self) -> float:
        """Seconds, once there is a measure."""
        return stall_limit(self._stall_timeout, self._median, phase="step", has_stepped=True)

    @property
    def limit(self) -> float:
        """Seconds, where the worker is now."""
        return stall_limit(self._stall_timeout, self._median, phase=self.phase, has_stepped=self._has_stepped)

    @property
    def is_broken(self) -> bool:
        return self.seconds > self.limit

    def _measured(self, seconds: float) -> None:
        self._measured_seconds.append(seconds)
        self._median = statistics.median(self._measured_seconds)


class DeferredLinesNotice:
    """Whether it must be said that lines of the ledger wait for room: once, until a state is saved again."""

    def __init__(self) -> None:
        self._is_told = False

    def is_news(self, waiting: int) -> bool:
        is_news = waiting > 0 and not self._is_told
        self._is_told = self._is_told or is_news
        return is_news


class TimeBudget:
    """The whole-run limit: seconds between completed steps, over all attempts of one start."""

    def __init__(self, max_seconds_per_step: float, steps: int, stall_timeout: float) -> None:
        self._least = FIRST_TIMES * stall_timeout
        self._step_seconds: deque[float] = deque(maxlen=REMEMBERED)
        self._done = 0.0  # in steps completed, and in steps that an attempt did not live to complete
        self._open = 0.0  # since, while a step was being computed
        self.limit = max(max_seconds_per_step * steps, self._least)
        self.since_step = 0.0  # as `_open`, but an attempt's end does not begin it anew
        self._has_moved = False  # a step was completed that nobody has measured

    def attempt_began(self) -> None:
        self._done += self._open
        self._open = 0.0

    def step_completed(self, seconds: float) -> None:
        """`seconds`: what the step took, saving and evaluating aside."""
        self._done += seconds
        self._open = self.since_step = 0.0
        self._step_seconds.append(seconds)

    def moved(self) -> None:
        """A step was completed; what it took will be told later."""
        self.since_step = 0.0
        self._has_moved = True

    def look(self, seconds: float, phase: str) -> None:
        """Loading, caching, evaluating and saving have a rule of their own: they do not count here."""
        if phase == "step":
            self._open += seconds
            self.since_step += seconds

    @property
    def spent(self) -> float:
        return self._done + self._open

    @property
    def seconds_per_step(self) -> float:
        """The median of those measured; 0 before the first."""
        return statistics.median(self._step_seconds) if self._step_seconds else 0.0

    @property
    def is_reached(self) -> bool:
        return self.spent >= self.limit

    def is_moving(self, patience: float) -> bool:
        """Whether a step was completed within `patience` seconds, or within two steps of this run."""
        if not self._step_seconds and not self._has_moved:
            return False
        return self.since_step <= max(patience, SLOW_STEPS * self.seconds_per_step)

    def raise_for(self, steps_left: int) -> None:
        """The limit is now what the steps left need by what was measured, twice over."""
        self.limit = self.spent + max(self._least, SLOW_STEPS * self.seconds_per_step * steps_left)


@dataclass(frozen=True, slots=True)
class Ended:
    """What is known of an attempt that is over."""

    status: int  # of the process; negative for a signal
    said: int | None = None  # the exit code in its RunStopped
    is_hung: bool = False  # it was ended, because it was silent
    is_over_limit: bool = False  # it was ended, because the run had no more time
    stop_requested: bool = False  # a person asked for a stop
    is_complete: bool = False  # the last step was completed, saved and exported
    is_out_of_room: bool = False  # the run had begun, and by its last word, or by having none, the disk is full


Failure = Literal["crashed", "hung"]
FAILURE_EXITS: dict[Failure, ExitCode] = {"crashed": ExitCode.CRASHED, "hung": ExitCode.STUCK}
FINAL = frozenset(ExitCode) - frozenset(FAILURE_EXITS.values())


def meaning_of(ended: Ended) -> ExitCode | Failure:
    """How an attempt ended: an exit code that stands, or a failure, after which it may be tried again.

    A worker that said how it ended is believed, even where it had to be ended afterwards.
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
    """How often a worker may be started again: as long as the run gets further, and three times where it does not."""

    def __init__(self, first_step: int, *, no_restart: bool) -> None:
        self._no_restart = no_restart
        self._before = first_step  # the highest step at the last restart
        self.highest = first_step  # the highest step ever completed
        self.in_vain = 0  # restarts in a row since it grew

    def step_completed(self, step: int) -> None:
        self.highest = max(self.highest, step)

    def try_again(self) -> bool:
        """Whether there is one more restart after a failure; counts it."""
        if self.highest > self._before:
            self._before = self.highest
            self.in_vain = 0
        if self._no_restart or self.in_vain >= MAX_RESTARTS:
            return False
        self.in_vain += 1
        return True
