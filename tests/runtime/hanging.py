"""A supervisor for which time passes only while its worker hangs.

On a busy machine a worker in good health may be silent for seconds: while Python starts, or between two beats. Tests of
hangs have shorter stall time-outs, so nothing else counts for them. A worker that is about to hang makes a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from lorasmith.runtime.policy import ObservedClock

if TYPE_CHECKING:
    import pytest  # which the processes that are started need not load

VARIABLE = "HANG_FILE"
STACK_SECONDS = 60.0  # patience with a worker that is to print its stacks
P = TypeVar("P")


def hang_begins() -> None:
    """Called by a worker that goes silent with its next call."""
    if VARIABLE in os.environ:
        Path(os.environ[VARIABLE]).touch()


class HangClock(ObservedClock):
    """Counts the observed seconds of hangs."""

    def passed(self, now: float) -> float:
        seconds = super().passed(now)
        return seconds if Path(os.environ[VARIABLE]).exists() else 0.0


def count_hangs_alone(patch: pytest.MonkeyPatch, file: Path) -> None:
    """For supervisors in this process, which are also patient with all else that takes a moment."""
    from lorasmith.runtime import processes, supervisor

    patch.setenv(VARIABLE, str(file))
    patch.setattr(supervisor, "ObservedClock", HangClock)
    patch.setattr(supervisor, "EXIT_SECONDS", 100.0)
    patch.setattr(processes, "STACK_SECONDS", STACK_SECONDS)


def launching(launch: Callable[[list[str], IO[bytes]], P]) -> Callable[[list[str], IO[bytes]], P]:
    """`launch`, where the hang of an earlier worker is over."""

    def launch_it(arguments: list[str], output: IO[bytes]) -> P:
        Path(os.environ[VARIABLE]).unlink(missing_ok=True)
        return launch(arguments, output)

    return launch_it
