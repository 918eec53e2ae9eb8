"""The random numbers of a micro-batch, drawn on the host before the step that uses them.

They are functions of (seed, step, micro-batch) and a name, so they depend neither on what was drawn before nor on the
device; and what computes the loss draws nothing, so that it can be compiled or captured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, device

from lorasmith.seeding import fold


@dataclass(frozen=True, slots=True)
class Draw:
    """The source of all random numbers of one micro-batch. Drawing one name changes the numbers of no other."""

    seed: int
    step: int  # the step being made, from 1
    micro: int  # the micro-batch inside it, from 0

    def normal(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers of `shape`, float32, on the CPU."""
        return torch.randn(shape, generator=self._generator(name))

    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Numbers of `shape` in (0, 1), float32, on the CPU: the centres of the cells of a grid of 2**-23."""
        cells = torch.randint(0, 1 << 23, shape, generator=self._generator(name))
        return (cells.to(torch.float32) + 0.5) / (1 << 23)

    def _generator(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed(fold(self.seed, name, self.step, self.micro))


@dataclass(frozen=True, slots=True)
class NoiseOptions:
    """Options that change the noise of training from plain standard normal numbers."""

    offset: float = 0.0  # standard deviation of a shift of every channel, so that a model learns to change brightness


PLAIN_NOISE = NoiseOptions()


@dataclass(frozen=True, slots=True)
class Numbers:
    """The random numbers of a batch, one row for each example."""

    noise: Tensor  # (B, *latent shape), float32
    quantiles: Tensor  # (B,) in (0, 1), float32: which part of the noise process an example is trained at

    def rows(self, start: int, stop: int) -> Numbers:
        """The numbers of the examples start..stop-1, as views."""
        return Numbers(self.noise[start:stop], self.quantiles[start:stop])

    def to(self, where: device) -> Numbers:
        """A copy on another device; these numbers themselves on the CPU, where all are drawn."""
        if where.type == "cpu":
            return self
        return Numbers(self.noise.to(where, non_blocking=True), self.quantiles.to(where, non_blocking=True))

    @staticmethod
    def joined(parts: Sequence[Numbers]) -> Numbers:
        """The rows of all `parts` in order: each part keeps its numbers, whatever it is batched with."""
        return Numbers(torch.cat([part.noise for part in parts]), torch.cat([part.quantiles for part in parts]))


def draw_numbers(draw: Draw, shape: tuple[int, ...], options: NoiseOptions = PLAIN_NOISE) -> Numbers:
    """The numbers of a whole micro-batch whose latents have this shape, (B, ...).

    A slice of the micro-batch takes `rows` of them, so cutting it changes no number.
    """
    noise = draw.normal("noise", shape)
    if options.offset:
        noise += options.offset * draw.normal("noise_offset", (*shape[:2], *[1] * (len(shape) - 2)))
    return Numbers(noise, draw.uniform("timestep", shape[:1]))
