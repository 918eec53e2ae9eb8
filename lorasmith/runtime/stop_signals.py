"""Counts the stop signals that arrive while a worker is supervised; the caller acts on them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any

from lorasmith.runs.process_files import STOP_SIGNALS, monotonic

INTERRUPTS = ("SIGINT", "SIGBREAK")  # sent by keys
ENDINGS = tuple(name for name in STOP_SIGNALS if name not in INTERRUPTS)  # sent by the system or a closed terminal
TERMINAL_CLOSED = "SIGHUP"
SAME_PRESS_SECONDS = 0.2  # a launcher may pass on a Ctrl+C that this process has received already


def handle_stop_signals(
    handler: Callable[[int, FrameType | None], None], names: Sequence[str] = STOP_SIGNALS
) -> dict[int, Any]:
    """Installs `handler` for those of the signals that this platform has; returns the handlers it replaced.

    A hang-up that is ignored, as by nohup, stays so: the run is meant to outlive its terminal.
    """
    replaced = {}
    for name in names:
        if name in signal.Signals.__members__:
            number = signal.Signals[name]
            if name != TERMINAL_CLOSED or signal.getsignal(number) is not signal.SIG_IGN:
                replaced[int(number)] = signal.signal(number, handler)
    return replaced


class StopSignals:
    """A context manager that handles the signals of these names, and restores their handlers at the end."""

    def __init__(self, names: Sequence[str] = STOP_SIGNALS) -> None:
        self._names = names
        self._before: dict[int, Any] = {}
        self._presses = 0
        self._pressed_at = 0.0
        self.stop_requested = False

    @property
    def kill_requested(self) -> bool:
        """Whether Ctrl+C was pressed twice. Other signals do not count: a terminal that is closed may send them to a
        process twice."""
        return self._presses > 1

    def __enter__(self) -> StopSignals:
        self._before = handle_stop_signals(self._count, self._names)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _count(self, number: int, _frame: FrameType | None) -> None:
        self.stop_requested = True
        if signal.Signals(number).name in INTERRUPTS:
            now = monotonic()
            if not self._presses or now - self._pressed_at >= SAME_PRESS_SECONDS:
                self._presses += 1
                self._pressed_at = now
