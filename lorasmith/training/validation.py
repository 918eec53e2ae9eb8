"""The training loss on examples that stay the same, at noise and timesteps that stay the same.

The arithmetic is the step's own; nothing is trained here, and nothing of it is random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lorasmith.data.types import CachedExample, Example
from lorasmith.diffusion.losses import per_example_mse
from lorasmith.diffusion.noise_schedules import Draw, Noised
from lorasmith.seeding import fold
from lorasmith.training.examples import CachedText
from lorasmith.training.halving import in_batches
from lorasmith.training.step import Parts

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
    parts: Parts, examples: Sequence[tuple[Example, CachedExample]], *, at_once: int, alive: Callable[[], None]
) -> ValidationLosses:
    """The losses of each example at each quantile. Its noise is a function of the picture and the quantile alone, so it
    depends neither on the other examples nor on how many are computed at once. `alive` is called before each batch.

    Raises:
        RuntimeError: out of memory with a single prediction.
    """
    items = [_Item(example, cached, quantile) for example, cached in examples for quantile in QUANTILES]

    def work(batch: Sequence[_Item]) -> list[float]:
        alive()
        noised = [_noised(parts, one) for one in batch]
        together = Noised(
            sample=torch.cat([one.sample for one in noised]),
            timesteps=torch.cat([one.timesteps for one in noised]),
            target=torch.cat([one.target for one in noised]),
        )
        texts = [CachedText(one.cached.conditioning, one.cached.tokens) for one in batch]
        prediction = parts.family.predict(parts.models, together, conditioning_of(parts, texts))
        return [float(one) for one in per_example_mse(prediction, together.target)]

    losses = in_batches(items, work, kind=lambda one: one.cached.latents.shape, at_once=at_once, device=parts.device)
    width = len(QUANTILES)
    return ValidationLosses(tuple(tuple(losses[at : at + width]) for at in range(0, len(losses), width)))


def conditioning_of(parts: Parts, texts: Sequence[CachedText]) -> Mapping[str, Tensor]:
    """Of a batch, where the models are; through the text encoder where that is trained."""
    where = parts.device.torch_device
    conditionings = [one.conditioning for one in texts if one.conditioning is not None]
    if conditionings:
        return {name: value.to(where) for name, value in parts.family.collate_conditioning(conditionings).items()}
    tokens = [one.tokens for one in texts if one.tokens is not None]
    stacked = {name: torch.stack([one[name] for one in tokens]).to(where) for name in tokens[0]}
    return parts.family.encode_tokens(parts.models, stacked, clip_skip=parts.clip_skip)


def _noised(parts: Parts, item: _Item) -> Noised:
    # A stream of its own: no step of training ever draws from it.
    seed = fold(parts.seed, "validation", item.example.image_sha256)
    draw = Draw(seed, 0, QUANTILES.index(item.quantile), 1, quantile=item.quantile)
    return parts.family.add_noise(item.cached.latents[None].to(parts.device.torch_device), draw)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
