"""What the loss gets of the noise process of Stable Diffusion, at timesteps of choice."""

import torch

from lorasmith.diffusion.process import DdpmProcess, Noised


def noised(timesteps: tuple[int, ...], *, width: int = 1, zero_terminal_snr: bool = False) -> Noised:
    """Zeros noised by zeros, `width` of them for each timestep: their target is zero."""
    process = DdpmProcess.build(
        beta_start=0.00085,
        beta_end=0.012,
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        prediction="epsilon",
        zero_terminal_snr=zero_terminal_snr,
    )
    zeros = torch.zeros(len(timesteps), 1, 1, width)
    return process.add_noise(zeros, zeros, torch.tensor(timesteps))
