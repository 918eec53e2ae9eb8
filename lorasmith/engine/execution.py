"""Computes the losses of a micro-batch and their gradients.

Everything random but dropout is among the arguments, so a function of this file can be replayed; the numbers of dropout
come from torch's generator, which `step` seeds for each slice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from lorasmith.adapters.flat import FlatAdapter
from lorasmith.data.types import LOSS_MASK, LOSS_WEIGHT, Batch
from lorasmith.diffusion.draw import Numbers
from lorasmith.diffusion.objective import Objective
from lorasmith.diffusion.process import NoiseProcess, apply_noise
from lorasmith.engine.device import Device
from lorasmith.families.base import ModelFamily

Losses = Callable[[Batch, Numbers], Tensor]
"""`losses_of` of one run: what does not change from batch to batch is bound to it."""


def losses_of(
    family: ModelFamily,
    models: Mapping[str, nn.Module],
    batch: Batch,
    numbers: Numbers,
    *,
    process: NoiseProcess,
    objective: Objective,
) -> Tensor:
    """The loss of each example of a batch, (B,), float32; all arguments lie on the device of the models.

    The only definition of the loss: training minimises it, validation measures it. Pure, apart from dropout layers,
    which take their numbers from torch's global generator.
    """
    conditioning = family.conditioning(models, batch.inputs)
    noised = apply_noise(process, batch.latents, numbers)
    prediction = family.predict(models, noised.noisy_latents, noised.timesteps, conditioning)
    mask, factors = batch.inputs.get(LOSS_MASK), batch.inputs.get(LOSS_WEIGHT)
    return objective.losses(prediction, noised, mask=mask, factors=factors)


def add_gradient(
    losses: Losses, adapter: FlatAdapter, batch: Batch, numbers: Numbers, weight: float | Tensor
) -> Tensor:
    """Adds the gradient of weight * (sum of the losses) to that of the adapter, and returns the losses, (B,), detached.
    All arguments lie on the device of the models."""
    with adapter.opened():
        found = losses(batch, numbers)
        (found.sum() * weight).backward()  # type: ignore[no-untyped-call]
    return found.detach()


class Execution(Protocol):
    """Computes losses and gradients of micro-batches, or of slices of them."""

    def forward_backward(self, batch: Batch, numbers: Numbers, weight: float) -> Tensor:
        """Adds the gradient of weight * (sum of the losses) to the gradients of the parameters.

        Batch and numbers come from any device. Returns the losses, (B,), detached, on the device of the models.

        Raises:
            RuntimeError, MemoryError: out of memory, as `device.is_out_of_memory` recognises it.
        """

    def prepare(self, batch: Batch, numbers: Numbers) -> None:
        """Makes ready for inputs of these shapes, before the first step; changes nothing that training depends on.

        Raises:
            RuntimeError, MemoryError: it cannot be done here.
        """

    def forget(self) -> None:
        """Drops what was made ready: memory ran out, or the models compute in another way from now on."""


@dataclass(frozen=True, slots=True)
class EagerExecution:
    """Runs every operation when Python comes to it."""

    losses: Losses
    device: Device
    adapter: FlatAdapter

    def forward_backward(self, batch: Batch, numbers: Numbers, weight: float) -> Tensor:
        sent = self.device.sent
        return add_gradient(self.losses, self.adapter, batch.mapped(sent), numbers.mapped(sent), weight)

    def prepare(self, batch: Batch, numbers: Numbers) -> None:
        """Nothing is needed."""

    def forget(self) -> None:
        """Nothing was made."""
