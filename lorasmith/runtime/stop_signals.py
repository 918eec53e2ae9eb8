"""The stop signals of this platform, counted while a worker is watched over. Does nothing about them."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

from lorasmith.runs.process_files import STOP_SIGNALS, monotonic

INTERRUPTS = ("SIGINT", "SIGBREAK")  # what a person presses
ENDINGS = tuple(name for name in STOP_SIGNALS if name not in INTERRUPTS)  # what a system or a closed terminal sends
TERMINAL_CLOSED = "SIGHUP"
SAME_PRESS_SECONDS = 0.2  # what started us may pass on a Ctrl+C that we got already


class StopSignals:
    """Those of that name. A context manager; puts the handlers back that it found."""

    def __init__(self, names: Sequence[str] = STOP_SIGNALS) -> None:
        self._names = names
        self._before: dict[int, Any] = {}
        self._presses = 0
        self._pressed_at = 0.0
        self.stop_requested = False

    @property
    def kill_requested(self) -> bool:
        """Ctrl+C was pressed twice. Other signals may come in twos without anybody's meaning it: a terminal that is
        closed sends them to each process by more than one way."""
        return self._presses > 1

    def __enter__(self) -> StopSignals:
        for name in self._names:
            if name in signal.Signals.__members__:
                number = signal.Signals[name]
                if name == TERMINAL_CLOSED and signal.getsignal(number) is signal.SIG_IGN:
                    continue  # by nohup: the run is meant to outlive its terminal
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
