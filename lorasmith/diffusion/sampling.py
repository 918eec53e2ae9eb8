"""From noise to latents: DDIM without noise of its own (Song et al. 2021, eta = 0).

Knows no model: what predicts is a function that it is given.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lorasmith.diffusion.noise_schedules import DdpmSchedule

Predict = Callable[[Tensor, Tensor], Tensor]  # (B, C, h, w) and timesteps (B,) -> what the schedule's `prediction` says


def ddim(
    predict: Predict, schedule: DdpmSchedule, latents: Tensor, noise: Tensor, *, strength: float, steps: int
) -> Tensor:
    """Latents (B, C, h, w) noised to `strength` of the schedule and drawn anew; at 1 only `noise` is begun from.

    `steps` is for the whole schedule: round(steps * strength) of them are made, at least one, as img2img does. They end
    at the steepest part ("trailing", Lin et al. 2023), so the first one is at the strength itself. float32.
    """
    count = len(schedule.alphas_cumprod)
    made = max(1, round(steps * strength))
    row = [max(0, round(count * strength * (made - number) / made) - 1) for number in range(made)]
    alpha_bars = [float(schedule.alphas_cumprod[step]) for step in row]
    noised = alpha_bars[0] ** 0.5 * latents + (1 - alpha_bars[0]) ** 0.5 * noise
    sample = noise if strength >= 1 else noised
    for number, step in enumerate(row):
        timesteps = torch.full((len(sample),), step, dtype=torch.int64, device=sample.device)
        prediction = predict(sample, timesteps)
        signal, noise_scale = alpha_bars[number] ** 0.5, (1 - alpha_bars[number]) ** 0.5
        if schedule.prediction == "epsilon":
            clean, direction = (sample - noise_scale * prediction) / signal, prediction
        else:
            clean = signal * sample - noise_scale * prediction
            direction = signal * prediction + noise_scale * sample
        next_alpha_bar = alpha_bars[number + 1] if number + 1 < made else 1.0
        sample = next_alpha_bar**0.5 * clean + (1 - next_alpha_bar) ** 0.5 * direction
    return sample
