"""Keeps small gradients of fp16 from vanishing, and says when a step overflowed."""

from __future__ import annotations

from dataclasses import dataclass

INITIAL_SCALE = 2.0**16
GROWTH_STEPS = 2000


@dataclass(slots=True)
class LossScaler:
    """A power of two by which the loss is multiplied; gradients are divided by it again, exactly.

    Part of the state: a run that continues scales as one that never stopped (Micikevicius et al. 2018, section 3.2).
    """

    scale: float = INITIAL_SCALE
    good_steps: int = 0

    def step_applied(self) -> None:
        """After so many good steps in a row the scale is doubled."""
        self.good_steps += 1
        if self.good_steps == GROWTH_STEPS:
            self.scale *= 2
            self.good_steps = 0

    def can_shrink(self) -> bool:
        """At a scale of 1 an infinite gradient is no matter of scaling."""
        return self.scale > 1

    def overflowed(self) -> None:
        """Halves the scale: the same step is done again."""
        self.scale /= 2
        self.good_steps = 0
