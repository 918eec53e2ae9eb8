"""Noise processes: how latents become noise, and what a denoiser predicts on the way back.

A process is a value that knows no model. Training noises latents with it, sampling walks its levels backwards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol, Self

import torch
from torch import Tensor, device

from lorasmith.diffusion.draw import Numbers

Prediction = Literal["epsilon", "v_prediction", "flow"]


@dataclass(frozen=True, slots=True)
class Noised:
    """Noisy latents and what the denoiser should predict from them."""

    noisy_latents: Tensor  # (B, ...)
    timesteps: Tensor  # (B,), as the denoiser takes them
    target: Tensor  # (B, ...), what it should predict
    snr: Tensor | None = None  # (B,), signal-to-noise ratio, for weights of the loss; None where it has no use
    sigma: Tensor | None = None  # (B,), the share of noise in [0, 1], of processes that mix linearly
    position: Tensor | None = None  # (B,), the timestep as a share of the process in [0, 1], where losses may use it


class NoiseLevel(NamedTuple):
    """A point of a noise process: latents there are signal * clean + noise_scale * noise."""

    timestep: int | float  # as the denoiser takes it
    signal: float
    noise_scale: float


class NoiseProcess(Protocol):
    """A noise process, as training and sampling use it."""

    def to(self, where: device) -> Self:
        """The same process with its tables on the device where latents are noised."""

    def seen_in(self, dtype: torch.dtype) -> Self:
        """The same process for a denoiser that takes timesteps in this data type."""

    @property
    def timestep_count(self) -> int:
        """The number of timesteps, as settings count them."""

    def between(self, first: int, stop: int) -> Self:
        """The same process, trained at the timesteps first..stop-1 alone. Sampling still visits all of them."""

    def timesteps(self, quantiles: Tensor, latents_shape: tuple[int, ...]) -> Tensor:
        """Quantiles (B,) in (0, 1) -> timesteps (B,), monotonic. The shape, (B, ...), is for processes that depend on
        the resolution."""

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Noised:
        """Latents and noise (B, ...) at timesteps (B,) -> noisy latents and their target. Pure, without host sync."""

    def levels(self, steps: int, denoising_strength: float, latents_shape: tuple[int, ...]) -> tuple[NoiseLevel, ...]:
        """The levels a sampler visits, from much noise to little, without the clean end.

        `steps` are for the whole process: round(steps * denoising_strength) of them are visited, at least one, and the
        first lies at the strength itself, in (0, 1].
        """

    def split(self, prediction: Tensor, noisy_latents: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """The clean latents and the noise that a prediction at a level implies."""


def apply_noise(process: NoiseProcess, latents: Tensor, numbers: Numbers) -> Noised:
    """Latents (B, ...) noised by numbers that lie on their device. A perturbation of the input changes no target (Ning
    et al. 2023)."""
    timesteps = process.timesteps(numbers.quantiles, tuple(latents.shape))
    noised = process.add_noise(latents, numbers.noise, timesteps)
    if numbers.perturbation is None:
        return noised
    perturbed = process.add_noise(latents, numbers.noise + numbers.perturbation, timesteps)
    return replace(noised, noisy_latents=perturbed.noisy_latents)


@dataclass(frozen=True, slots=True)
class DdpmProcess:
    """The discrete variance-preserving process of Ho et al. (2020)."""

    alphas_cumprod: Tensor  # (T,), float32
    prediction: Prediction
    trained: range = range(0)  # timesteps that are trained; none: all

    @staticmethod
    def build(
        *,
        beta_start: float,
        beta_end: float,
        num_train_timesteps: int,
        beta_schedule: Literal["scaled_linear", "linear"],
        prediction: Prediction,
        zero_terminal_snr: bool,
    ) -> DdpmProcess:
        """The process of a `scheduler_config.json` of diffusers, computed in float64.

        `zero_terminal_snr` shifts and scales sqrt(alpha_bar) so that the last timestep is pure noise (Lin et al. 2023,
        algorithm 1).
        """
        if beta_schedule == "scaled_linear":
            betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps, dtype=torch.float64) ** 2
        else:
            betas = torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float64)
        root = torch.cumprod(1 - betas, dim=0).sqrt()
        if zero_terminal_snr:
            root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
        return DdpmProcess((root**2).to(torch.float32), prediction)

    @property
    def timestep_count(self) -> int:
        return len(self.alphas_cumprod)

    def between(self, first: int, stop: int) -> DdpmProcess:
        assert 0 <= first < stop <= self.timestep_count
        return replace(self, trained=range(first, stop))

    def to(self, where: device) -> DdpmProcess:
        return replace(self, alphas_cumprod=self.alphas_cumprod.to(where))

    def seen_in(self, dtype: torch.dtype) -> DdpmProcess:  # noqa: ARG002  timesteps are integers
        return self

    def timesteps(self, quantiles: Tensor, latents_shape: tuple[int, ...]) -> Tensor:  # noqa: ARG002
        """Integer timesteps that are trained, each equally likely."""
        trained = self.trained or range(len(self.alphas_cumprod))
        return (quantiles * len(trained)).to(torch.int64).clamp_(max=len(trained) - 1) + trained.start

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Noised:
        """sqrt(a) x + sqrt(1 - a) n, and its target: n, or v = sqrt(a) n - sqrt(1 - a) x (Salimans & Ho 2022)."""
        alpha_bar = self.alphas_cumprod[timesteps]
        by_example = alpha_bar.view(-1, *[1] * (latents.ndim - 1))
        signal, noise_scale = by_example.sqrt(), (1 - by_example).sqrt()
        noisy_latents = signal * latents + noise_scale * noise
        target = noise if self.prediction == "epsilon" else signal * noise - noise_scale * latents
        position = timesteps / len(self.alphas_cumprod)
        return Noised(noisy_latents, timesteps, target, snr=alpha_bar / (1 - alpha_bar), position=position)

    def levels(
        self,
        steps: int,
        denoising_strength: float,
        latents_shape: tuple[int, ...],  # noqa: ARG002
    ) -> tuple[NoiseLevel, ...]:
        """Evenly spaced timesteps that end where the process is steepest ("trailing", Lin et al. 2023)."""
        count = len(self.alphas_cumprod)
        visited = max(1, round(steps * denoising_strength))
        chosen = [
            max(0, round(count * denoising_strength * (visited - number) / visited) - 1) for number in range(visited)
        ]
        alpha_bars = self.alphas_cumprod.cpu()[chosen].tolist()
        return tuple(
            NoiseLevel(timestep, alpha_bar**0.5, (1 - alpha_bar) ** 0.5)
            for timestep, alpha_bar in zip(chosen, alpha_bars, strict=True)
        )

    def split(self, prediction: Tensor, noisy_latents: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        if self.prediction == "epsilon":
            return (noisy_latents - level.noise_scale * prediction) / level.signal, prediction
        clean = level.signal * noisy_latents - level.noise_scale * prediction
        return clean, level.signal * prediction + level.noise_scale * noisy_latents
