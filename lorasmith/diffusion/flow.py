"""The noise process of flow-matching models: a straight line from picture to noise (Liu et al. 2022, Lipman et al.
2023).

All families have this one convention: the noise level s goes from 0, the picture, to 1, the noise. What a family's
denoiser takes and gives in other conventions (1 - s, 1000 s, the picture minus the noise), the family translates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, device

from lorasmith.diffusion.densities import UNIFORM, Density
from lorasmith.diffusion.process import Noised, NoiseLevel

TIMESTEPS = 1000
"""The parts into which settings divide the process: `--min-timestep 500` is s = 0.5."""


class Shift(Protocol):
    """Moves noise levels towards the noise: s -> a s / (1 + (a - 1) s), which keeps 0 and 1."""

    def factor(self, latents_shape: tuple[int, ...], steps: int = 0) -> float:
        """The factor `a` for latents (B, C, h, w): 1 changes nothing, 3 makes 0.75 of 0.5.

        `steps`: of a sampler; 0 in training.
        """


@dataclass(frozen=True, slots=True)
class FixedShift:
    """The same factor for every size of picture."""

    by: float = 1.0

    def factor(self, latents_shape: tuple[int, ...], steps: int = 0) -> float:  # noqa: ARG002
        return self.by


@dataclass(frozen=True, slots=True)
class ShiftByTokens:
    """A larger factor for larger pictures: its logarithm is linear in the number of tokens of a picture, through two
    points, and goes on beyond them."""

    fewest: int  # tokens of the first point
    most: int  # tokens of the second
    least: float  # logarithm of the factor at the first
    greatest: float  # logarithm of the factor at the second
    patch: int = 2  # side of a token, in elements of the latents

    def factor(self, latents_shape: tuple[int, ...], steps: int = 0) -> float:  # noqa: ARG002
        height, width = latents_shape[-2:]
        tokens = (height // self.patch) * (width // self.patch)
        slope = (self.greatest - self.least) / (self.most - self.fewest)
        return math.exp(self.least + (tokens - self.fewest) * slope)


NO_SHIFT = FixedShift()


@dataclass(frozen=True, slots=True)
class FlowMatching:
    """The mixture (1 - s) picture + s noise, whose denoiser predicts noise - picture. Timesteps are the levels s."""

    density: Density = UNIFORM
    training_shift: Shift = NO_SHIFT
    sampling_shift: Shift = NO_SHIFT
    dtype: torch.dtype = torch.float32
    """In which the denoiser takes the level. Levels are rounded to it once, before anything is mixed: what the denoiser
    is shown is what it is asked about."""
    has_exact_levels: bool = False  # the denoiser takes the level in float32 whatever its precision
    bounds: tuple[float, float] = (0.0, 1.0)  # levels that are trained
    last_level: float | None = None
    """To which the levels of sampling are stretched, so that the last step begins there; None: they are not."""

    @property
    def timestep_count(self) -> int:
        return TIMESTEPS

    def between(self, first: int, stop: int) -> FlowMatching:
        """The part of the density between first / 1000 and stop / 1000, in its own shape."""
        assert 0 <= first < stop <= TIMESTEPS
        return replace(self, bounds=(first / TIMESTEPS, stop / TIMESTEPS))

    def to(self, where: device) -> FlowMatching:  # noqa: ARG002  there are no tables
        return self

    def seen_in(self, dtype: torch.dtype) -> FlowMatching:
        return self if self.has_exact_levels else replace(self, dtype=dtype)

    def timesteps(self, quantiles: Tensor, latents_shape: tuple[int, ...]) -> Tensor:
        factor = self.training_shift.factor(latents_shape)
        if self.bounds != (0.0, 1.0):
            low, high = (self.density.below(_unshifted(bound, factor)) for bound in self.bounds)
            quantiles = low + (high - low) * quantiles
        shares = self.density.shares(quantiles)
        return self._rounded(factor * shares / (1 + (factor - 1) * shares))

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Noised:
        share = timesteps.view(-1, *[1] * (latents.ndim - 1))
        return Noised(
            noisy_latents=(1 - share) * latents + share * noise,
            timesteps=timesteps,
            target=noise - latents,
            snr=((1 - timesteps) / timesteps).square(),
            sigma=timesteps,
            position=timesteps,
        )

    def levels(self, steps: int, denoising_strength: float, latents_shape: tuple[int, ...]) -> tuple[NoiseLevel, ...]:
        """Evenly spaced before the shift, as in the samplers of diffusers that are given their levels."""
        factor = self.sampling_shift.factor(latents_shape, steps)
        visited, first = max(1, round(steps * denoising_strength)), _unshifted(denoising_strength, factor)
        evenly = [first * (visited - number) / visited for number in range(visited)]
        shifted = self._stretched([factor * level / (1 + (factor - 1) * level) for level in evenly])
        return tuple(NoiseLevel(level, 1 - level, level) for level in self._rounded(torch.tensor(shifted)).tolist())

    def split(self, prediction: Tensor, noisy_latents: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        return noisy_latents - level.noise_scale * prediction, noisy_latents + level.signal * prediction

    def _stretched(self, levels: list[float]) -> list[float]:
        """The levels with the first where it is and the last at `last_level`."""
        first, last = levels[0], levels[-1]
        if self.last_level is None or first <= max(last, self.last_level):
            return levels
        scale = (first - self.last_level) / (first - last)
        return [first - (first - level) * scale for level in levels]

    def _rounded(self, levels: Tensor) -> Tensor:
        return levels.to(self.dtype).to(torch.float32)


def _unshifted(level: float, factor: float) -> float:
    """The level that a shift by this factor moves to `level`."""
    return level / (factor - (factor - 1) * level)
