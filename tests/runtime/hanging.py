"""A supervisor for which time passes only while its worker hangs.

On a busy machine a worker in good health may be silent for seconds: while Python starts, or between two beats. Tests of
hangs have shorter stall time-outs, so nothing else counts for them. A worker that is about to hang makes a file; if it
is about to be stopped by a signal, the file holds its process id, and time passes while it is stopped.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from lorasmith.runtime.policy import ObservedClock
from lorasmith.runtime.processes import is_stopped

if TYPE_CHECKING:
    import pytest  # which the processes that are started need not load

VARIABLE = "HANG_FILE"
STACK_SECONDS = 60.0  # patience with a worker that is to print its stacks
STACK_PAUSE_SECONDS = 0.5  # and with one that is held up in the middle of them
P = TypeVar("P")


def hang_begins() -> None:
    """Called by a worker that goes silent with its next call."""
    if VARIABLE in os.environ:
        Path(os.environ[VARIABLE]).touch()


def stop_begins() -> None:
    """Called by a worker whose next call is the signal that stops it."""
    if VARIABLE in os.environ:
        file = Path(os.environ[VARIABLE])
        whole = file.with_suffix(".pid")
        whole.write_text(str(os.getpid()))
        whole.replace(file)


class HangClock(ObservedClock):
    """Counts the observed seconds of hangs."""

    def passed(self, now: float) -> float:
        seconds = super().passed(now)
        return seconds if _is_hanging(Path(os.environ[VARIABLE])) else 0.0


def _is_hanging(file: Path) -> bool:
    try:
        pid = file.read_text()
    except FileNotFoundError:
        return False
    return not pid or is_stopped(int(pid))  # it may be held up between the file and the signal


def count_hangs_alone(patch: pytest.MonkeyPatch, file: Path) -> None:
    """For supervisors in this process, which are also patient with all else that takes a moment."""
    from lorasmith.runtime import processes, supervisor

    patch.setenv(VARIABLE, str(file))
    patch.setattr(supervisor, "ObservedClock", HangClock)
    patch.setattr(supervisor, "EXIT_SECONDS", 100.0)
    patch.setattr(processes, "STACK_SECONDS", STACK_SECONDS)
    patch.setattr(processes, "STACK_PAUSE_SECONDS", STACK_PAUSE_SECONDS)


def launching(launch: Callable[[list[str], IO[bytes]], P]) -> Callable[[list[str], IO[bytes]], P]:
    """`launch`, where the hang of an earlier worker is over."""

    def launch_it(arguments: list[str], output: IO[bytes]) -> P:
        Path(os.environ[VARIABLE]).unlink(missing_ok=True)
        return launch(arguments, output)

    return launch_it
