"""Which weights can be trusted after a step that was not finite, and whether the adapter is to blame for it.

The loss of step k judges the weights after step k - 1. It is compared with the smallest loss of the run, or with 1, the
loss of a model that has learned nothing, if that is larger.
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
"""In units of the smallest loss so far, or of 1 if that is larger: a prediction ten times too large has 100."""

LARGE_WEIGHT = 10.0
"""In units of the largest number at the start, or of 1, below which those of a LoRA lie. From here on an older state is
kept too, in case the newest cannot be trusted."""


@dataclass(slots=True)
class Trust:
    """The newest step whose weights can be trusted, by the losses of a run in order."""

    step: int = 0  # the newest step whose weights gave a plausible loss
    smallest: float = math.inf

    def add(self, step: int, loss: float) -> None:
        self.smallest = min(self.smallest, loss)
        if loss <= MAX_LOSS * max(1.0, self.smallest):
            self.step = step - 1

    def newest_state(self, root: Path) -> SavedState | None:
        """The newest good state that can be trusted."""
        return newest_good(root, most=self.step)[0]

    def protected(self, state: TrainState, root: Path) -> frozenset[int]:
        """The step of an older state to keep too, because the last loss or the weights are implausibly large."""
        if self.step >= state.step - 1 and not (state.adapter.largest > LARGE_WEIGHT * state.adapter.largest_at_start):
            return frozenset()
        older = self.newest_state(root)
        return frozenset() if older is None else frozenset({older.step})


def trusted(losses: Iterable[tuple[int, float]]) -> Trust:
    """The trust after these (step, loss) pairs."""
    trust = Trust()
    for step, loss in losses:
        trust.add(step, loss)
    return trust


def blamed_on_adapter(
    error: NonFiniteError, state: TrainState, context: StepContext, *, trust: Trust, root: Path
) -> NonFiniteError | None:
    """Returns the error that blames the adapter and names a state to continue from; None if the adapter is not to
    blame, or no older state is left."""
    trust.step = min(trust.step, state.step - 1)
    good = trust.newest_state(root)
    if good is None or not _is_to_blame(state, context, error.fields["step"]):
        return None
    return NonFiniteError("non_finite_weights", **{**error.fields, "state": good.path.name, "saved": good.step})


def _is_to_blame(state: TrainState, context: StepContext, step: int) -> bool:
    """Whether the loss of an example of `step` is finite without the adapter, and not finite or implausible with it.

    Then no learning rate helps that step: its loss is computed before the rate is used.
    """
    for micro in range(context.accumulation_steps):
        _, batch = context.batches.at(step, micro)
        numbers = numbers_at(context, step, micro, batch)
        for row in range(len(batch)):
            device = context.device.torch_device
            example, its_numbers = batch.rows(row, row + 1).to(device), numbers.rows(row, row + 1).to(device)
            with torch.no_grad():
                with_adapter = float(context.losses(example, its_numbers))
                state.adapter.set_multiplier(0.0)
                try:
                    alone = float(context.losses(example, its_numbers))
                finally:
                    state.adapter.set_multiplier(1.0)
            is_plausible = with_adapter <= MAX_LOSS * max(1.0, alone)  # False for NaN
            if math.isfinite(alone) and not is_plausible:
                return True
    return False
