"""A second noise process, to show that training and sampling need no more of one than its value."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from lorasmith.diffusion.process import Noised, NoiseLevel


@dataclass(frozen=True)
class LinearFlow:
    """Rectified flow (Liu et al. 2022): x_t = (1 - t) x + t n, and the target n - x."""

    first: float = 0.0  # of the timesteps that are trained
    stop: float = 1000.0

    timestep_count = 1000

    def between(self, first: int, stop: int) -> Self:
        return replace(self, first=first, stop=stop)

    def to(self, where: torch.device) -> Self:
        return self

    def timesteps(self, quantiles: Tensor, latents_shape: tuple[int, ...]) -> Tensor:
        return self.first + (self.stop - self.first) * quantiles

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Noised:
        sigma = timesteps / 1000
        share = sigma.view(-1, 1, 1, 1)
        return Noised((1 - share) * latents + share * noise, timesteps, noise - latents, sigma=sigma)

    def levels(self, steps: int, denoising_strength: float, latents_shape: tuple[int, ...]) -> tuple[NoiseLevel, ...]:
        visited = max(1, round(steps * denoising_strength))
        sigmas = [denoising_strength * (visited - number) / visited for number in range(visited)]
        return tuple(NoiseLevel(1000 * sigma, 1 - sigma, sigma) for sigma in sigmas)

    def split(self, prediction: Tensor, noisy_latents: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        return noisy_latents - level.noise_scale * prediction, noisy_latents + level.signal * prediction
