"""From noise to latents: the deterministic sampler of Song et al. (2021, DDIM with eta = 0).

Works with any noise process; for a linear mixture it is Euler's method. Knows no model: the prediction is an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lorasmith.diffusion.process import NoiseProcess

Predict = Callable[[Tensor, Tensor], Tensor]  # noisy latents (B, ...) and timesteps (B,) -> what the process predicts


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """The sampler's settings with which a family's models are evaluated."""

    steps: int  # over the whole noise process: at a denoising strength below 1 that share of them
    guidance: float
    """Classifier-free guidance scale (Ho & Salimans 2021). Lower than people use to make pictures: these are measured,
    and strong guidance oversaturates colours."""
    guidance_input: str = ""
    """The name, in `ModelFamily.conditioning`, of the guidance of a denoiser that was distilled to take it as an input:
    there is no prediction without the caption then. "": it takes none."""

    def scale(self, guidance: float | None, embedded: float | None) -> float:
        """The guidance of a sample. `embedded` counts before `guidance` where it is an input, and nowhere else."""
        own = embedded if self.guidance_input and embedded is not None else guidance
        return self.guidance if own is None else own


def denoise(
    predict: Predict, process: NoiseProcess, latents: Tensor, noise: Tensor, *, denoising_strength: float, steps: int
) -> Tensor:
    """Latents (B, ...) noised to a strength in (0, 1] and denoised again; at 1 generated from `noise` alone.

    The number of steps is that of `NoiseProcess.levels`. float32.
    """
    levels = process.levels(steps, denoising_strength, tuple(latents.shape))
    first = levels[0]
    noisy = noise if denoising_strength >= 1 else first.signal * latents + first.noise_scale * noise
    for number, level in enumerate(levels):
        timesteps = torch.full((len(noisy),), level.timestep, device=noisy.device)
        clean, implied_noise = process.split(predict(noisy, timesteps), noisy, level)
        is_last = number + 1 == len(levels)
        signal, noise_scale = (1.0, 0.0) if is_last else (levels[number + 1].signal, levels[number + 1].noise_scale)
        noisy = signal * clean + noise_scale * implied_noise
    return noisy
