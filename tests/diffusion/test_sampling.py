"""The sampler: against diffusers' DDIM, and where the answer is known."""

import pytest
import torch
from torch import Tensor

from lorasmith.diffusion.process import DdpmProcess
from lorasmith.diffusion.sampling import denoise

SHAPE = (2, 4, 6, 5)


def process(prediction: str = "epsilon", *, zero: bool = False) -> DdpmProcess:
    return DdpmProcess.build(
        beta_start=0.00085,
        beta_end=0.012,
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        prediction=prediction,
        zero_terminal_snr=zero,
    )


def drawn(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("prediction", "zero"), [("epsilon", False), ("v_prediction", False), ("v_prediction", True)])
def test_whoever_knows_the_picture_gets_it(prediction: str, zero: bool) -> None:
    """A model that always says what leads to one picture ends there, from any strength."""
    ours, clean = process(prediction, zero=zero), drawn(0)

    def predict(sample: Tensor, timesteps: Tensor) -> Tensor:
        alpha = ours.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        if prediction == "epsilon":
            return (sample - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        # z = a x + s n, v = a n - s x
        noise = (sample - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * clean

    for strength in (0.3, 0.6, 1.0):
        found = denoise(predict, ours, torch.zeros(SHAPE), drawn(1), denoising_strength=strength, steps=12)
        assert torch.allclose(found, clean, atol=2e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_it_is_diffusers_ddim(prediction: str) -> None:
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=True,
        prediction_type=prediction, timestep_spacing="trailing",
    )  # fmt: skip
    theirs.set_timesteps(10)

    def predict(sample: Tensor, timesteps: Tensor) -> Tensor:
        return torch.tanh(sample) * (1 + timesteps.view(-1, 1, 1, 1) / 1000)

    sample = drawn(3)
    for step in theirs.timesteps:
        sample = theirs.step(predict(sample, step[None]), step, sample).prev_sample
    found = denoise(predict, process(prediction), torch.zeros(SHAPE), drawn(3), denoising_strength=1.0, steps=10)
    assert torch.allclose(found, sample, rtol=1e-4, atol=1e-3)


def asked(strength: float, steps: int) -> list[int]:
    seen: list[int] = []

    def predict(sample: Tensor, timesteps: Tensor) -> Tensor:
        assert timesteps.shape == (2,)
        seen.append(int(timesteps[0]))
        return sample * 0

    denoise(predict, process(), drawn(0), drawn(1), denoising_strength=strength, steps=steps)
    return seen


def test_which_steps_are_made() -> None:
    assert asked(1.0, 4) == [999, 749, 499, 249]
    assert asked(0.6, 5) == [599, 399, 199]
    assert asked(0.6, 12) == [599, 513, 428, 342, 256, 170, 85]
    assert asked(0.01, 12) == [9]


def test_pure_generation_does_not_see_the_latents() -> None:
    starts: list[Tensor] = []

    def predict(sample: Tensor, timesteps: Tensor) -> Tensor:
        starts.append(sample.clone())
        return sample * 0

    denoise(predict, process(), drawn(0), drawn(1), denoising_strength=1.0, steps=3)
    assert torch.equal(starts[0], drawn(1))
    starts.clear()
    denoise(predict, process(), drawn(0), drawn(1), denoising_strength=0.5, steps=2)
    alpha = process().alphas_cumprod[499]
    assert torch.allclose(starts[0], alpha.sqrt() * drawn(0) + (1 - alpha).sqrt() * drawn(1), atol=1e-6)
