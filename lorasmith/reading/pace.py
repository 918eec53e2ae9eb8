"""The pace of a run: how fast its steps follow each other. Knows no event."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

RECENT = 50  # steps over which the pace is taken


@dataclass(slots=True)
class Pace:
    """Seconds per step by the clock, so that saving counts too and the time left is honest."""

    _recent: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=RECENT + 1))
    _first_seconds: float = 0.0

    def add(self, step: int, time: float, seconds: float) -> None:
        """Takes a step that was completed at `time` (wall clock) after `seconds` of its own."""
        if not self._recent:
            self._first_seconds = seconds
        self._recent.append((step, time))

    @property
    def seconds_per_step(self) -> float:
        """0 before the first step."""
        if len(self._recent) < 2:
            return self._first_seconds
        (first, began), (last, now) = self._recent[0], self._recent[-1]
        return max(0.0, now - began) / max(1, last - first)
