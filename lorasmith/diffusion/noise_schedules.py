"""The noise of a micro-batch and what it does to latents: draws, and the discrete (DDPM) schedule.

Knows no model: what the denoiser is called and how it is run is the family's business.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from lorasmith.seeding import fold

Prediction = Literal["epsilon", "v_prediction"]


class Draws(Protocol):
    """The random numbers of a batch, by name."""

    def normal(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers of `shape` (B, ...), float32, on the CPU."""

    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Numbers of `shape` (B, ...) in (0, 1), float32, on the CPU."""


@dataclass(frozen=True, slots=True)
class Draw:
    """All the randomness of one micro-batch, drawn outside the family: a function of (seed, step, micro) and a name.

    An option that needs one more number asks for it under a new name and disturbs no other. A slice of a micro-batch
    (`rows`) gets its part of the whole micro-batch's numbers, so cutting it changes none of them.
    Drawn on the CPU, so the numbers do not depend on the device.
    """

    seed: int
    step: int  # the step being made, from 1
    micro: int  # the micro-batch inside it, from 0
    size: int  # examples in the whole micro-batch
    start: int = 0  # first row of this slice
    quantile: float | None = None  # in (0, 1): "timestep" is this everywhere instead of being drawn, for validation

    def rows(self, start: int) -> "Draw":
        """The draw of the slice that begins with row `start` of this one."""
        return Draw(self.seed, self.step, self.micro, self.size, self.start + start, self.quantile)

    def normal(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers of `shape` (B, ...), float32, on the CPU; B is the length of this slice."""
        assert self.start + shape[0] <= self.size
        whole = torch.randn((self.size, *shape[1:]), generator=self._generator(name))
        return whole[self.start : self.start + shape[0]]

    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Numbers of `shape` (B, ...) in (0, 1), float32, on the CPU: the middles of the cells of a grid of 2**-23."""
        assert self.start + shape[0] <= self.size
        if name == "timestep" and self.quantile is not None:
            return torch.full(shape, self.quantile)
        whole = torch.randint(0, 1 << 23, (self.size, *shape[1:]), generator=self._generator(name))
        return (whole[self.start : self.start + shape[0]].to(torch.float32) + 0.5) / (1 << 23)

    def _generator(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed(fold(self.seed, name, self.step, self.micro))


@dataclass(frozen=True, slots=True)
class OwnDraws:
    """A draw of its own for each example, so that its numbers do not depend on the others in the batch."""

    draws: Sequence[Draw]  # of one example each

    def normal(self, name: str, shape: tuple[int, ...]) -> Tensor:
        assert shape[0] == len(self.draws)
        return torch.cat([draw.normal(name, (1, *shape[1:])) for draw in self.draws])

    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        assert shape[0] == len(self.draws)
        return torch.cat([draw.uniform(name, (1, *shape[1:])) for draw in self.draws])


@dataclass(frozen=True, slots=True)
class Noised:
    """Noisy latents and what the denoiser should make of them."""

    sample: Tensor  # (B, C, h, w), what the denoiser sees
    timesteps: Tensor  # (B,), as the denoiser wants them
    target: Tensor  # (B, C, h, w), what it should predict


@dataclass(frozen=True, slots=True)
class DdpmSchedule:
    """The discrete variance-preserving schedule of Ho et al. (2020), with `scaled_linear` or `linear` betas.

    `zero_terminal_snr` shifts and scales sqrt(alpha_bar) so that the last step is pure noise (Lin et al.
    2023, algorithm 1).
    """

    alphas_cumprod: Tensor  # (T,), float32
    prediction: Prediction

    @staticmethod
    def build(
        *,
        beta_start: float,
        beta_end: float,
        num_train_timesteps: int,
        beta_schedule: Literal["scaled_linear", "linear"],
        prediction: Prediction,
        zero_terminal_snr: bool,
    ) -> "DdpmSchedule":
        """The schedule of a `scheduler_config.json` of diffusers, computed in float64."""
        if beta_schedule == "scaled_linear":
            betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps, dtype=torch.float64) ** 2
        else:
            betas = torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float64)
        root = torch.cumprod(1 - betas, dim=0).sqrt()
        if zero_terminal_snr:
            root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
        return DdpmSchedule((root**2).to(torch.float32), prediction)

    def timesteps(self, quantiles: Tensor) -> Tensor:
        """Uniform quantiles in (0, 1) -> integer timesteps 0..T-1, each equally likely."""
        count = len(self.alphas_cumprod)
        return (quantiles * count).to(torch.int64).clamp_(max=count - 1)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Noised:
        """sqrt(a) x + sqrt(1 - a) n, and its target: n, or v = sqrt(a) n - sqrt(1 - a) x (Salimans & Ho 2022)."""
        alpha_bar = self.alphas_cumprod.to(timesteps.device)[timesteps].view(-1, 1, 1, 1)
        signal, noise_scale = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        sample = signal * latents + noise_scale * noise
        target = noise if self.prediction == "epsilon" else signal * noise - noise_scale * latents
        return Noised(sample=sample, timesteps=timesteps, target=target)
