"""The state that a run must keep to continue: all of it is saved, and none of it can be derived."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lorasmith.adapters.flat import FlatAdapter
from lorasmith.engine.average import WeightAverage
from lorasmith.engine.optimizers import evaluation_mode, load_optimizer_state

INITIAL_SCALE = 2.0**16
GROWTH_STEPS = 2000


@dataclass(slots=True)
class LossScaler:
    """A power of two that the loss of fp16 training is multiplied by, so that small gradients do not vanish; gradients
    are divided by it again, exactly (Micikevicius et al. 2018, section 3.2).

    Part of the state, so that a continued run scales as a run that was never stopped.
    """

    scale: float = INITIAL_SCALE
    good_steps: int = 0

    def step_applied(self) -> None:
        """Counts a step; doubles the scale after GROWTH_STEPS without overflow."""
        self.good_steps += 1
        if self.good_steps == GROWTH_STEPS:
            self.scale *= 2
            self.good_steps = 0

    def can_shrink(self) -> bool:
        """Whether a smaller scale could help: with a scale of 1 an infinite gradient has another cause."""
        return self.scale > 1

    def overflowed(self) -> None:
        """Halves the scale, for the same step to be repeated."""
        self.scale /= 2
        self.good_steps = 0


@dataclass(frozen=True, slots=True)
class Origin:
    """The start of the present pictures, batch size and accumulation; positions in the order count from it."""

    step: int
    epoch: int


@dataclass(slots=True)
class TrainState:
    """The state of training after `step` updates; the adapter is untouched at step 0."""

    step: int  # optimizer updates completed
    adapter: FlatAdapter
    optimizer: Optimizer
    scaler: LossScaler | None  # fp16 only
    origin: Origin
    micro_split: int = 1  # slices a micro-batch is cut into, more than 1 since memory ran out
    gradient_checkpointing: bool = False  # of every block; by the settings, or since memory ran out
    average: WeightAverage | None = None  # exported and evaluated in place of the weights

    @property
    def loss_scale(self) -> float:
        """The factor on the loss: 1 without a loss scaler."""
        return 1.0 if self.scaler is None else self.scaler.scale

    @contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        """Has the adapter hold the weights to be exported and evaluated within the `with` block: their average, or
        those of an optimizer that trains with others. Afterwards every bit of the state is as before."""
        if self.average is None:
            with evaluation_mode(self.optimizer, self.adapter.flat):
                yield
            return
        flat, training = self.adapter.flat.data, self.adapter.flat.detach().clone()
        try:
            flat.copy_(self.average.weights)
            yield
        finally:
            flat.copy_(training)

    def step_applied(self, found_inf: Tensor | None) -> None:
        """Counts a step. `found_inf`: positive where the device has skipped it, which the host does not know yet."""
        self.step += 1
        if self.average is not None:
            self.average.add(self.adapter.flat, step=self.step, found_inf=found_inf)
        if self.scaler is not None:
            self.scaler.step_applied()

    def counters(self) -> dict[str, Any]:
        """Everything but the tensors, as plain values."""
        return {
            "step": self.step,
            "origin": {"step": self.origin.step, "epoch": self.origin.epoch},
            "micro_split": self.micro_split,
            "gradient_checkpointing": self.gradient_checkpointing,
            "scaler": None
            if self.scaler is None
            else {"scale": self.scaler.scale, "good_steps": self.scaler.good_steps},
        }

    def restore(
        self,
        counters: Mapping[str, Any],
        adapter: Mapping[str, Tensor],
        optimizer: dict[str, Any],
        average: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Takes over saved counters and tensors; adapter and optimizer were built for them. Where no average was saved
        it begins with the weights."""
        self.step = counters["step"]
        self.origin = Origin(**counters["origin"])
        self.micro_split = counters["micro_split"]
        self.gradient_checkpointing = counters["gradient_checkpointing"]
        if self.scaler is not None and counters["scaler"] is not None:
            self.scaler = LossScaler(**counters["scaler"])
        if self.average is not None:
            self.adapter.load_tensors(average or adapter, into=self.average.weights)
        self.adapter.load_tensors(adapter)
        load_optimizer_state(self.optimizer, optimizer)
