"""The micro-batches of a run, by number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from lorasmith.data.order import Order
from lorasmith.data.types import Batch, CachedExample, Inputs, Use, VaryingInputs
from lorasmith.engine.state import TrainState
from lorasmith.families.base import ModelFamily


@dataclass(frozen=True, slots=True)
class RunBatches:
    """The micro-batches of a run: a function of (step, micro) without a cursor."""

    order: Order
    cached: Sequence[CachedExample]
    family: ModelFamily
    accumulation_steps: int
    state: TrainState  # for its origin alone
    varying: Sequence[VaryingInputs] = ()  # each replaces those of the same name in what was cached
    send: Callable[[Tensor], Tensor] = lambda value: value  # to where batches are made of rows

    def position(self, step: int, micro: int) -> int:
        """Micro-batches since the origin; the first is 0."""
        return (step - 1 - self.state.origin.step) * self.accumulation_steps + micro

    def ids_at(self, step: int, micro: int) -> tuple[int, tuple[int, ...]]:
        """The epoch (from 1) and the examples of the micro-batch, without making it."""
        return self.order.batch_at(self.position(step, micro), self.state.origin.epoch)

    def at(self, step: int, micro: int) -> tuple[int, Batch]:
        """The epoch (from 1) and the micro-batch, where `send` puts its inputs."""
        epoch, ids = self.ids_at(step, micro)
        uses = [Use(example_id, epoch, step, micro, row) for row, example_id in enumerate(ids)]
        return epoch, Batch(self.family.collate([self._inputs(use) for use in uses]), ids)

    def of_each_shape(self, step: int) -> Iterator[tuple[int, int]]:
        """Step and number of a micro-batch of every shape that an epoch from `step` on has."""
        seen = set()
        for ahead in range(self.order.batches_per_epoch):
            later, micro = divmod(ahead, self.accumulation_steps)
            _, ids = self.ids_at(step + later, micro)
            rows = [{name: value.to("meta") for name, value in self.cached[id_].inputs.items()} for id_ in ids]
            key = tuple((name, tuple(value.shape)) for name, value in self.family.collate(rows).items())
            if key not in seen:
                seen.add(key)
                yield step + later, micro

    def _inputs(self, use: Use) -> Inputs:
        inputs = dict(self.cached[use.example_id].inputs)
        for varying in self.varying:
            inputs.update(varying(use))
        return {name: self.send(value) for name, value in inputs.items()}

    def examples_in(self, step: int) -> int:
        """The number of examples in all micro-batches of a step."""
        return sum(len(self.ids_at(step, micro)[1]) for micro in range(self.accumulation_steps))

    def completed_epochs(self, step: int) -> int:
        """Epochs of which every micro-batch is computed after a step. Other data ends the epoch that it interrupts."""
        done = max(0, self.position(step, self.accumulation_steps - 1) + 1)
        return self.state.origin.epoch - 1 + done // self.order.batches_per_epoch

    def epochs_in(self, steps: int) -> int:
        """Epochs that a number of steps begins."""
        return math.ceil(steps * self.accumulation_steps / self.order.batches_per_epoch)

    def epoch_of(self, step: int) -> int:
        """The epoch of the last micro-batch of a completed step; the first epoch before the first step."""
        if step <= self.state.origin.step:
            return self.state.origin.epoch
        return self.order.epoch_at(self.position(step, self.accumulation_steps - 1), self.state.origin.epoch)
