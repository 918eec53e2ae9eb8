"""A run of the real command line whose processes are killed at instants drawn by a seed, and started again as a person
would: `--continue` without a number, without a terminal; `--new` where there is nothing yet to go on from.
"""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from lorasmith.errors import ExitCode
from lorasmith.runs.locks import facts_of_holder, is_held
from lorasmith.runs.process_files import read_heartbeat
from lorasmith.runtime.policy import MAX_RESTARTS
from tests.end_to_end.test_command_line import typed
from tests.end_to_end.watched import alive
from tests.end_to_end.workshop import Workshop

VICTIMS = ("worker", "supervisor", "both")
LOOK_SECONDS = 0.005
PATIENCE_SECONDS = 400.0  # for one start; an undisturbed one takes a few


class Program(Protocol):
    """A start: of a Python of its own, or forked (forked_program.py)."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def kill(self) -> None: ...


Begin = Callable[[Workshop, Sequence[str], IO[bytes]], Program]


def begin_apart(workshop: Workshop, command: Sequence[str], output: IO[bytes]) -> Program:
    """As a person does it."""
    return subprocess.Popen(
        list(command), cwd=workshop.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
    )


@dataclass
class Kill:
    """One of them, as it came."""

    victim: str
    seconds: float  # after the start, or after the kill before
    phase: str  # of the worker's heart then; "" where there was none

    def __str__(self) -> str:
        return f"{self.victim} after {self.seconds:.2f} s ({self.phase or 'no heart'})"


@dataclass
class KilledRun:
    """One run, from `--new` to its end."""

    workshop: Workshop
    new: Sequence[str]  # what is typed for a new run
    draw: random.Random
    most: int  # kills
    within: float  # seconds: what an undisturbed start takes
    often_at: float  # as a share of that: the instant that is drawn most often
    begin: Begin
    was_refused: bool = False  # the last start: everything had been done
    kills: list[Kill] = field(default_factory=list)
    exits: Counter[int] = field(default_factory=Counter)  # of starts that were left to end

    def to_the_end(self) -> None:
        """Raises AssertionError where it does not finish."""
        command = list(self.new)
        try:
            while True:
                before = len(self.kills)
                status = self._one_start(command)
                self.was_refused = status == ExitCode.BAD_INPUT and self._owes_nothing(command)
                if status == ExitCode.FINISHED or self.was_refused:
                    return
                if status == ExitCode.NO_STATE:
                    assert "--continue" in command, "a new run needs no state"
                    command = list(self.new)
                    continue
                # Killed; or its workers were, four times in a row without a step between: then the supervisor gives up.
                gave_up = status == ExitCode.CRASHED and len(self.kills) - before > MAX_RESTARTS
                assert status == -signal.SIGKILL or gave_up, f"exit {status}: {self._output()}"
                command = ["--continue"]
        finally:
            self._end_all()

    def _one_start(self, command: list[str]) -> int:
        """From a start to its end, by itself or by a kill."""
        with self._log.open("wb") as output:
            self._process = self.begin(self.workshop, typed(self.workshop, *command), output)
        while len(self.kills) < self.most:
            seconds = self.draw.triangular(0, self.within, self.often_at * self.within)
            victim = self.draw.choice(VICTIMS)
            if not self._is_alive_after(seconds) or not self._has_killed(victim, seconds):
                break
            if victim != "worker":
                return self._process.wait(timeout=PATIENCE_SECONDS)
        status = self._process.wait(timeout=PATIENCE_SECONDS)
        self.exits[status] += 1
        return status

    def _is_alive_after(self, seconds: float) -> bool:
        try:
            self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def _has_killed(self, victim: str, seconds: float) -> bool:
        """False where it ended before; one that has no worker just then is waited for."""
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while victim != "supervisor" and not self._workers():
            if self._process.poll() is not None:
                return False
            assert time.monotonic() < give_up_at, f"no worker: {self._output()}"
            time.sleep(LOOK_SECONDS)
        workers, phase = self._workers(), self._phase()
        for pid in [self._process.pid] if victim == "supervisor" else workers:
            with suppress(ProcessLookupError):  # it has just left by itself
                os.kill(pid, signal.SIGKILL)
        if victim == "both":
            self._process.kill()
        self.kills.append(Kill(victim, seconds, phase))
        return True

    def _workers(self) -> list[int]:
        """Children that live: one that was killed and not asked after yet is none."""
        try:
            found = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        except FileNotFoundError:
            return []
        return [pid for pid in map(int, found.split()) if alive(pid)]

    def _phase(self) -> str:
        run = self.workshop.run
        beat = read_heartbeat(run.staging / run.heartbeat.name if run.staging.exists() else run.heartbeat)
        return "" if beat is None else beat.phase

    def _owes_nothing(self, command: list[str]) -> bool:
        """Killed after everything was done: `--continue` says that nothing is owed, and what has to be there is."""
        return "--continue" in command and self.workshop.run.export("last").exists()

    @property
    def _log(self) -> Path:
        return self.workshop.folder / "output.txt"

    def _output(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]

    def _end_all(self) -> None:
        """Nothing of it may live on, whatever was found."""
        orphan = facts_of_holder(self.workshop.run.worker_lock).get("pid", 0)
        is_orphan = is_held(self.workshop.run.worker_lock)
        for pid in [*self._workers(), *([orphan] if is_orphan and isinstance(orphan, int) else [])]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait(timeout=PATIENCE_SECONDS)
