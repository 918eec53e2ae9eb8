"""The training loss on examples that stay the same, at noise and timesteps that stay the same.

It is computed by the step's own `losses_of`; nothing is trained here, and nothing of it is random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lorasmith.data.types import Batch, CachedExample, Example
from lorasmith.diffusion.noise_schedules import Draw, OwnDraws
from lorasmith.engine.oom import map_in_batches
from lorasmith.engine.step import StepContext, losses_of
from lorasmith.seeding import fold

QUANTILES = (0.125, 0.375, 0.625, 0.875)
"""Of the noise schedule: the middles of its quarters, from little noise to much."""


@dataclass(frozen=True, slots=True)
class ValidationLosses:
    """(examples, quantiles), float64."""

    table: tuple[tuple[float, ...], ...]

    @property
    def is_finite(self) -> bool:
        return all(math.isfinite(one) for row in self.table for one in row)

    def described(self, *, is_held_out: bool, pictures: str = "") -> dict[str, Any]:
        """As it stands in the ledger. The error is that of a mean over examples: their standard deviation over the
        square root of their number; None for a single one."""
        by_example = [_mean(row) for row in self.table]
        loss, count = _mean(by_example), len(by_example)
        error = None
        if count > 1:
            error = math.sqrt(sum((one - loss) ** 2 for one in by_example) / (count - 1) / count)
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
    """The losses of each example at each quantile. Its noise is a function of the picture and the quantile alone, so it
    depends neither on the other examples nor on how many are computed at once. `alive` is called before each batch.

    Raises:
        RuntimeError: out of memory with a single prediction.
    """
    items = [_Item(example, cached, quantile) for example, cached in examples for quantile in QUANTILES]

    def work(batch: Sequence[_Item]) -> list[float]:
        alive()
        inputs = context.family.collate([item.cached.inputs for item in batch])
        cached = Batch(inputs, tuple(range(len(batch))))
        draws = OwnDraws([_draw(context, one) for one in batch])
        return [float(one) for one in losses_of(context, cached.to(context.device.torch_device), draws)]

    losses = map_in_batches(
        items, work, kind=lambda one: one.cached.latents.shape, at_once=at_once, device=context.device
    )
    width = len(QUANTILES)
    return ValidationLosses(tuple(tuple(losses[at : at + width]) for at in range(0, len(losses), width)))


def _draw(context: StepContext, item: _Item) -> Draw:
    # A stream of its own: no step of training ever draws from it.
    seed = fold(context.seed, "validation", item.example.image_sha256)
    return Draw(seed, 0, QUANTILES.index(item.quantile), 1, quantile=item.quantile)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
