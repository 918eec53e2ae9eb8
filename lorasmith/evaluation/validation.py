"""The training loss on fixed examples, at fixed noise and timesteps.

The loss is the step's own (`StepContext.losses`), whatever it is weighted by. Trains nothing, and nothing is random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from lorasmith.data.types import Batch, CachedExample, Example
from lorasmith.diffusion.draw import Draw, Numbers, draw_numbers
from lorasmith.engine.device import map_in_batches
from lorasmith.engine.step import StepContext
from lorasmith.seeding import fold

QUANTILES = (0.125, 0.375, 0.625, 0.875)
"""Positions in the noise process: the centres of its quarters, from little noise to much."""


@dataclass(frozen=True, slots=True)
class ValidationLosses:
    """The losses of each example at each quantile."""

    table: tuple[tuple[float, ...], ...]  # (examples, quantiles)

    @property
    def is_finite(self) -> bool:
        return all(math.isfinite(loss) for row in self.table for loss in row)

    def described(self, *, is_held_out: bool, pictures: str = "") -> dict[str, Any]:
        """The entry of the ledger, with the mean loss and its standard error: the standard deviation of the examples'
        losses over the square root of their number, None for a single example."""
        by_example = [_mean(row) for row in self.table]
        loss, count = _mean(by_example), len(by_example)
        error = None
        if count > 1:
            error = math.sqrt(sum((other - loss) ** 2 for other in by_example) / (count - 1) / count)
        return {
            "loss": loss,
            "standard_error": error,
            "examples": count,
            "is_held_out": is_held_out,
            "pictures": pictures,
            "quantiles": list(QUANTILES),
            "by_quantile": [_mean(column) for column in zip(*self.table, strict=True)],
            "by_example": by_example,
        }


class _Item(NamedTuple):
    example: Example
    cached: CachedExample
    quantile: float


def validation_losses(
    context: StepContext, examples: Sequence[tuple[Example, CachedExample]], *, at_once: int, alive: Callable[[], None]
) -> ValidationLosses:
    """Measures the loss of each example at each quantile.

    The noise is a function of picture and quantile alone: a loss depends neither on the other examples nor, but for
    rounding, on how many are computed `at_once`. `alive` is called before each batch.

    Raises:
        RuntimeError: out of memory with a single prediction.
    """
    items = [_Item(example, cached, quantile) for example, cached in examples for quantile in QUANTILES]

    def work(batch: Sequence[_Item]) -> list[float]:
        alive()
        inputs = context.family.collate([item.cached.inputs for item in batch])
        numbers = Numbers.joined([_numbers(context, item) for item in batch])
        where = context.device.torch_device
        losses = context.losses(Batch(inputs, tuple(range(len(batch)))).to(where), numbers.to(where))
        return [float(loss) for loss in losses]

    losses = map_in_batches(
        items, work, kind=lambda item: item.cached.latents.shape, at_once=at_once, device=context.device
    )
    width = len(QUANTILES)
    return ValidationLosses(tuple(tuple(losses[i : i + width]) for i in range(0, len(losses), width)))


def _numbers(context: StepContext, item: _Item) -> Numbers:
    """The item's noise, from a stream that no training step draws from, at its quantile."""
    seed = fold(context.seed, "validation", item.example.image_sha256)
    draw = Draw(seed, 0, QUANTILES.index(item.quantile))
    drawn = draw_numbers(draw, item.cached.latents[None], context.noise_options)
    return replace(drawn, quantiles=torch.full((1,), item.quantile))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
