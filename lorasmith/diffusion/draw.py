"""The random numbers of a micro-batch, drawn on the host before the step that uses them.

They are functions of (seed, step, micro-batch) and a name, so they depend neither on what was drawn before nor on the
device; and what computes the loss draws nothing, so that it can be compiled or captured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, device
from torch.nn.functional import interpolate

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
    """Options that change the noise of training from plain standard normal numbers; docs/losses.md has the formulas."""

    offset: float = 0.0  # standard deviation of a shift of every channel, so that a model learns to change brightness
    has_random_offset: bool = False  # whether each micro-batch takes a uniform share of the offset
    adaptive_scale: float = 0.0  # the offset grows by this factor of each channel's |mean|
    levels: int = 0  # of multi-resolution noise; 0: none
    level_discount: float = 0.3  # strength of a level, as a share of the level before
    perturbation: float = 0.0  # standard deviation of noise that the denoiser sees and does not have to predict
    has_random_perturbation: bool = False  # whether each micro-batch takes a uniform share of it


PLAIN_NOISE = NoiseOptions()


@dataclass(frozen=True, slots=True)
class Numbers:
    """The random numbers of a batch, one row for each example."""

    noise: Tensor  # (B, *latent shape), float32
    quantiles: Tensor  # (B,) in (0, 1), float32: which part of the noise process an example is trained at
    perturbation: Tensor | None = None  # (B, *latent shape), float32: more noise, which is no part of the target

    def rows(self, start: int, stop: int) -> Numbers:
        """The numbers of the examples start..stop-1, as views."""
        perturbation = None if self.perturbation is None else self.perturbation[start:stop]
        return Numbers(self.noise[start:stop], self.quantiles[start:stop], perturbation)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Numbers:
        """These numbers with every tensor changed."""
        perturbation = None if self.perturbation is None else change(self.perturbation)
        return Numbers(change(self.noise), change(self.quantiles), perturbation)

    def to(self, where: device) -> Numbers:
        """A copy on another device; these numbers themselves on the CPU, where all are drawn."""
        return self if where.type == "cpu" else self.mapped(lambda value: value.to(where, non_blocking=True))

    @staticmethod
    def joined(parts: Sequence[Numbers]) -> Numbers:
        """The rows of all `parts` in order: each part keeps its numbers, whatever it is batched with. All parts were
        drawn with the same options."""
        perturbations = [part.perturbation for part in parts if part.perturbation is not None]
        return Numbers(
            torch.cat([part.noise for part in parts]),
            torch.cat([part.quantiles for part in parts]),
            torch.cat(perturbations) if perturbations else None,
        )


def draw_numbers(draw: Draw, latents: Tensor, options: NoiseOptions = PLAIN_NOISE) -> Numbers:
    """The numbers of a whole micro-batch of latents (B, C, h, w), which only the adaptive offset reads.

    A slice of the micro-batch takes `rows` of them, so cutting it changes no number.
    """
    shape = tuple(latents.shape)
    noise = draw.normal("noise", shape)
    if options.offset:
        noise += _strength(draw, latents, options) * draw.normal("noise_offset", (*shape[:2], 1, 1))
    if options.levels:
        noise = _with_levels(draw, noise, options)
    perturbation = None
    if options.perturbation:
        share = draw.uniform("perturbation_share", (1,)) if options.has_random_perturbation else 1.0
        perturbation = share * options.perturbation * draw.normal("perturbation", shape)
    return Numbers(noise, draw.uniform("timestep", shape[:1]), perturbation)


def _strength(draw: Draw, latents: Tensor, options: NoiseOptions) -> float | Tensor:
    """The standard deviation of the offset: a number, or with an adaptive scale (B, C, 1, 1)."""
    strength: float | Tensor = options.offset
    if options.has_random_offset:
        strength = strength * draw.uniform("noise_offset_share", (1,))
    if options.adaptive_scale:
        means = latents.detach().cpu().float().mean((2, 3), keepdim=True).abs()
        strength = (strength + options.adaptive_scale * means).clamp(min=0)
    return strength


def _with_levels(draw: Draw, noise: Tensor, options: NoiseOptions) -> Tensor:
    """Multi-resolution noise (Whitaker 2023): normal numbers at ever smaller sizes, enlarged and added up with falling
    strength, all divided by the standard deviation of the micro-batch.

    As in sd-scripts the first level has the full size, and the divisor of level i is the i-th power of a number from
    2 to 4 that each level draws anew.
    """
    height, width = noise.shape[2:]
    for level in range(options.levels):
        divisor = (2 + 2 * float(draw.uniform(f"noise_level_{level}_divisor", (1,)))) ** level
        size = max(1, int(height / divisor)), max(1, int(width / divisor))
        small = draw.normal(f"noise_level_{level}", (*noise.shape[:2], *size))
        enlarged = interpolate(small, (height, width), mode="bilinear")
        noise = noise + options.level_discount**level * enlarged
        if 1 in size:
            break
    # By numpy, in a single thread: the result depends on no number of threads.
    return noise / float(noise.numpy().std(ddof=1, dtype="float64"))
