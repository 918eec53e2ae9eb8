"""Which weights can be trusted after a step that was not finite, and whether the adapter is to blame for it.

A loss tells of the weights it was computed with: that of step k of the weights after step k - 1. What the loss is
compared with is the run's own smallest one, and 1, which a model that knows nothing has: no honest run comes near.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from lorasmith.engine.state import TrainState
from lorasmith.engine.step import StepContext, numbers_at
from lorasmith.errors import NonFiniteError
from lorasmith.runs.states import SavedState, newest_good

MAX_LOSS = 100.0
"""Times the smallest loss so far, or 1 where that is less: a prediction ten times as large as what it should be."""

LARGE_WEIGHT = 10.0
"""A LoRA's numbers are below 1. From here on one more state is kept, in case this one cannot be trusted."""


@dataclass(slots=True)
class Trust:
    """Fed with the losses of a run, in order."""

    step: int = 0  # the newest one whose weights gave a loss of sane size
    smallest: float = math.inf

    def add(self, step: int, loss: float) -> None:
        self.smallest = min(self.smallest, loss)
        if loss <= MAX_LOSS * max(1.0, self.smallest):
            self.step = step - 1

    def newest_state(self, root: Path) -> SavedState | None:
        """The newest good one that can be trusted."""
        return newest_good(root, most=self.step)[0]

    def protected(self, state: TrainState, root: Path) -> frozenset[int]:
        """The older state that is to be kept beside this one: where the last loss was of no sane size, or the weights
        are not."""
        if self.step >= state.step - 1 and not bool(state.adapter.flat.abs().max() > LARGE_WEIGHT):
            return frozenset()
        older = self.newest_state(root)
        return frozenset() if older is None else frozenset({older.step})


def trusted(losses: Iterable[tuple[int, float]]) -> Trust:
    """By the losses of the steps so far."""
    trust = Trust()
    for step, loss in losses:
        trust.add(step, loss)
    return trust


def blamed_on_adapter(
    error: NonFiniteError, state: TrainState, context: StepContext, *, trust: Trust, root: Path
) -> NonFiniteError | None:
    """The error that says so and names the state to go on from; None where the adapter is not to blame, or where no
    older state is left."""
    trust.step = min(trust.step, state.step - 1)
    good = trust.newest_state(root)
    if good is None or not _is_to_blame(state, context, error.fields["step"]):
        return None
    return NonFiniteError("non_finite_weights", **{**error.fields, "state": good.path.name, "saved": good.step})


def _is_to_blame(state: TrainState, context: StepContext, step: int) -> bool:
    """Whether the base model alone is finite on what `step` is made of, and with the adapter is not, or is of no sane
    size. Then no rate helps that step: its loss is computed before the rate is used. One example at a time."""
    for micro in range(context.accumulation_steps):
        _, batch = context.batches.at(step, micro)
        numbers = numbers_at(context, step, micro, batch)
        for row in range(len(batch)):
            where = context.device.torch_device
            example, its_numbers = batch.rows(row, row + 1).to(where), numbers.rows(row, row + 1).to(where)
            with torch.no_grad():
                with_adapter = float(context.losses(example, its_numbers))
                state.adapter.set_multiplier(0.0)
                try:
                    alone = float(context.losses(example, its_numbers))
                finally:
                    state.adapter.set_multiplier(1.0)
            is_sane = with_adapter <= MAX_LOSS * max(1.0, alone)  # no for what is not a number
            if math.isfinite(alone) and not is_sane:
                return True
    return False
