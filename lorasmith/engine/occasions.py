"""The steps at which something is done: every N steps, and at the end of every N epochs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Occasions:
    """The steps at which something is done. An epoch ends at the step that computes its last micro-batch."""

    every_steps: int  # 0: never
    every_epochs: int  # 0: never
    completed_epochs: Callable[[int], int]  # after a step

    @property
    def are_any(self) -> bool:
        return self.every_steps > 0 or self.every_epochs > 0

    def is_due(self, step: int) -> bool:
        return self.is_due_by_steps(step) or self.epoch_ended(step) is not None

    def is_due_by_steps(self, step: int) -> bool:
        return step > 0 and self.every_steps > 0 and step % self.every_steps == 0

    def epoch_ended(self, step: int) -> int | None:
        """The epoch whose end is due at a step; the last of them, if a step ends several."""
        if step <= 0 or self.every_epochs <= 0:
            return None
        before, now = (self.completed_epochs(at) // self.every_epochs for at in (step - 1, step))
        return now * self.every_epochs if now > before else None
