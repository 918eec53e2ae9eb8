"""Counts the stop signals that arrive while a worker is supervised; the caller acts on them."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

from lorasmith.runs.process_files import STOP_SIGNALS, monotonic

INTERRUPTS = ("SIGINT", "SIGBREAK")  # sent by keys
ENDINGS = tuple(name for name in STOP_SIGNALS if name not in INTERRUPTS)  # sent by the system or a closed terminal
TERMINAL_CLOSED = "SIGHUP"
SAME_PRESS_SECONDS = 0.2  # a launcher may pass on a Ctrl+C that this process has received already


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
        for name in self._names:
            if name in signal.Signals.__members__:
                number = signal.Signals[name]
                if name == TERMINAL_CLOSED and signal.getsignal(number) is signal.SIG_IGN:
                    continue  # set by nohup: the run shall outlive its terminal
                self._before[number] = signal.signal(number, self._count)
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
