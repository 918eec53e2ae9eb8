import math
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lorasmith.diffusion.draw import Draw, NoiseOptions, Numbers, draw_numbers
from lorasmith.diffusion.process import DdpmProcess, apply_noise

SD15: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
}


def process(prediction: Any = "epsilon", *, ztsnr: bool = False, **changed: Any) -> DdpmProcess:
    return DdpmProcess.build(**{**SD15, **changed}, prediction=prediction, zero_terminal_snr=ztsnr)


def of_diffusers(prediction: str, ztsnr: bool, **changed: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import warns of what is not ours
        from diffusers import DDPMScheduler
    return DDPMScheduler(**{**SD15, **changed}, prediction_type=prediction, rescale_betas_zero_snr=ztsnr)


SHAPE = (3, 4, 5, 7)  # has no say in the timesteps of this process

# -- timesteps -------------------------------------------------------------------------------------


def test_timesteps_are_equally_likely_and_in_range() -> None:
    middles = (torch.arange(4000) + 0.5) / 4000
    counts = torch.bincount(process().timesteps(middles, SHAPE), minlength=1000)
    assert counts.tolist() == [4] * 1000
    assert process().timesteps(torch.tensor([0.0, 1.0]), SHAPE).tolist() == [0, 999]
    assert process(num_train_timesteps=7).timesteps(torch.tensor([0.14, 0.15, 0.999]), SHAPE).tolist() == [0, 1, 6]


def test_timesteps_between_two_are_equally_likely() -> None:
    middles = (torch.arange(4000) + 0.5) / 4000
    counts = torch.bincount(process().between(100, 900).timesteps(middles, SHAPE), minlength=1000)
    assert counts.tolist() == [0] * 100 + [5] * 800 + [0] * 100
    ends = torch.tensor([2**-24, 1 - 2**-24])
    assert process().between(100, 900).timesteps(ends, SHAPE).tolist() == [100, 899]
    assert process().between(7, 8).timesteps(ends, SHAPE).tolist() == [7, 7]
    assert process().between(100, 900).levels(4, 1.0, SHAPE) == process().levels(4, 1.0, SHAPE)


# -- the schedule ----------------------------------------------------------------------------------


def test_the_schedule_of_stable_diffusion_has_its_known_ends() -> None:
    alphas = process().alphas_cumprod
    assert (len(alphas), alphas.dtype) == (1000, torch.float32)
    assert alphas[0].item() == pytest.approx(1 - 0.00085, abs=1e-7)
    assert alphas[999].item() == pytest.approx(0.0046600, abs=1e-6)
    assert (alphas[1:] < alphas[:-1]).all()


def test_betas_by_hand() -> None:
    linear = process(beta_start=0.1, beta_end=0.3, num_train_timesteps=3, beta_schedule="linear").alphas_cumprod
    assert torch.allclose(linear, torch.tensor([0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7]))
    scaled = process(beta_start=0.04, beta_end=0.16, num_train_timesteps=3).alphas_cumprod
    assert torch.allclose(scaled, torch.tensor([0.96, 0.96 * 0.91, 0.96 * 0.91 * 0.84]))


@pytest.mark.parametrize("beta_schedule", ["scaled_linear", "linear"])
@pytest.mark.parametrize("ztsnr", [False, True])
@pytest.mark.parametrize("count", [1000, 10])
def test_the_schedule_is_that_of_diffusers(beta_schedule: str, ztsnr: bool, count: int) -> None:
    changed: dict[str, Any] = {"beta_schedule": beta_schedule, "num_train_timesteps": count}
    theirs = of_diffusers("epsilon", ztsnr, **changed).alphas_cumprod
    assert torch.allclose(process(ztsnr=ztsnr, **changed).alphas_cumprod, theirs, rtol=2e-5, atol=1e-6)


def test_zero_terminal_snr_ends_in_pure_noise_and_begins_as_before() -> None:
    plain, zero = process().alphas_cumprod, process("v_prediction", ztsnr=True).alphas_cumprod
    assert zero[-1].item() == 0.0 and plain[-1].item() > 0.004
    assert zero[0].item() == pytest.approx(plain[0].item(), abs=1e-7)
    assert (zero[1:] < zero[:-1]).all()


# -- adding noise ----------------------------------------------------------------------------------


def one(value: float) -> Tensor:
    return torch.full((1, 1, 1, 1), value)


@pytest.mark.parametrize(("prediction", "target"), [("epsilon", 5.0), ("v_prediction", 0.6 * 5.0 - 0.8 * 2.0)])
def test_noise_is_added_as_by_hand(prediction: Any, target: float) -> None:
    known = DdpmProcess(torch.tensor([1.0, 0.36, 0.0]), prediction)  # sqrt: 0.6 and 0.8
    noised = known.add_noise(one(2.0), one(5.0), torch.tensor([1]))
    assert noised.noisy_latents.item() == pytest.approx(0.6 * 2 + 0.8 * 5)
    assert noised.target.item() == pytest.approx(target)
    assert noised.timesteps.tolist() == [1]


def test_at_the_ends_there_is_the_picture_or_the_noise_alone() -> None:
    known = DdpmProcess(torch.tensor([1.0, 0.36, 0.0]), "v_prediction")
    clean, pure = (known.add_noise(one(2.0), one(5.0), torch.tensor([at])) for at in (0, 2))
    assert (clean.noisy_latents.item(), clean.target.item()) == (2.0, 5.0)
    assert (pure.noisy_latents.item(), pure.target.item()) == (5.0, -2.0)


def random_case(count: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    draw = Draw(seed=9, step=1, micro=0)
    shape = (count, 4, 8, 6)
    return draw.normal("x", shape), draw.normal("n", shape), torch.tensor([0, 1, 250, 500, 998, 999][:count])


@pytest.mark.parametrize("ztsnr", [False, True])
def test_both_targets_say_the_same(ztsnr: bool) -> None:
    """From the sample and v both picture and noise come back."""
    latents, noise, timesteps = random_case()
    epsilon = process("epsilon", ztsnr=ztsnr).add_noise(latents, noise, timesteps)
    v = process("v_prediction", ztsnr=ztsnr).add_noise(latents, noise, timesteps)
    assert torch.equal(epsilon.target, noise) and torch.equal(epsilon.noisy_latents, v.noisy_latents)
    alpha_bar = process(ztsnr=ztsnr).alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    signal, scale = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    assert torch.allclose(signal * v.noisy_latents - scale * v.target, latents, atol=1e-5)
    assert torch.allclose(scale * v.noisy_latents + signal * v.target, noise, atol=1e-5)
    if ztsnr:
        assert torch.equal(v.noisy_latents[5], noise[5]) and torch.equal(v.target[5], -latents[5])


@pytest.mark.parametrize("ztsnr", [False, True])
def test_noise_is_added_as_diffusers_does(ztsnr: bool) -> None:
    latents, noise, timesteps = random_case()
    theirs = of_diffusers("v_prediction", ztsnr)
    ours = process("v_prediction", ztsnr=ztsnr).add_noise(latents, noise, timesteps)
    assert torch.allclose(ours.noisy_latents, theirs.add_noise(latents, noise, timesteps), atol=2e-5)
    assert torch.allclose(ours.target, theirs.get_velocity(latents, noise, timesteps), atol=2e-5)


def test_an_example_is_noised_as_if_it_were_alone() -> None:
    latents, noise, timesteps = random_case()
    whole = process("v_prediction").add_noise(latents, noise, timesteps)
    for row in range(6):
        cut = slice(row, row + 1)
        alone = process("v_prediction").add_noise(latents[cut], noise[cut], timesteps[cut])
        assert torch.equal(alone.noisy_latents, whole.noisy_latents[cut]) and torch.equal(
            alone.target, whole.target[cut]
        )


def test_the_variance_is_kept() -> None:
    draw = Draw(seed=3, step=1, micro=0)
    latents, noise = draw.normal("x", (1, 4, 128, 128)), draw.normal("n", (1, 4, 128, 128))
    for timestep in (0, 300, 999):
        sample = process().add_noise(latents, noise, torch.tensor([timestep])).noisy_latents
        assert math.isclose(sample.var().item(), 1.0, abs_tol=0.03)


def test_the_ratio_of_signal_to_noise_is_that_of_the_variances() -> None:
    """A weight of the loss reads it: of unit signal and noise, 0.36 to 0.64, and no signal at zero terminal SNR."""
    known = DdpmProcess(torch.tensor([0.5, 0.36, 0.0]), "v_prediction")
    snr = known.add_noise(torch.ones(3, 4, 2, 2), torch.ones(3, 4, 2, 2), torch.tensor([0, 1, 2])).snr
    assert snr is not None
    assert snr.tolist() == pytest.approx([1.0, 0.36 / 0.64, 0.0])


def test_numbers_are_applied_by_quantile() -> None:
    """Of a value that was drawn before: the noise as it is, the timestep by its quantile."""
    latents, noise, _ = random_case(2)
    noised = apply_noise(process(), latents, Numbers(noise, torch.tensor([0.2505, 0.9985])))
    assert noised.timesteps.tolist() == [250, 998]
    assert torch.equal(noised.target, noise)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_perturbation_changes_the_input_and_no_target(prediction: str) -> None:
    """Ning et al. 2023: the denoiser sees noise + gamma * more noise, and predicts the noise without it."""
    latents, noise, _ = random_case(2)
    more = 0.1 * Draw(1, 1, 1).normal("more", tuple(noise.shape))
    quantiles = torch.tensor([0.2505, 0.9985])
    plain = apply_noise(process(prediction), latents, Numbers(noise, quantiles))
    perturbed = apply_noise(process(prediction), latents, Numbers(noise, quantiles, more))
    assert torch.equal(perturbed.target, plain.target) and torch.equal(perturbed.timesteps, plain.timesteps)
    scale = (1 - process().alphas_cumprod[plain.timesteps]).sqrt().view(-1, 1, 1, 1)
    assert torch.allclose(perturbed.noisy_latents, plain.noisy_latents + scale * more, atol=1e-6)


def test_perturbed_latents_are_those_of_sd_scripts() -> None:
    """A row of what its `get_noise_noisy_latents_and_timesteps` (commit 48d368fa) gave for the same random numbers."""
    latents, draw = Draw(1, 1, 1).normal("latents", (2, 2, 6, 8)), Draw(7, 3, 1)
    numbers = draw_numbers(draw, latents, NoiseOptions(perturbation=0.1))
    found = apply_noise(process(), latents, replace(numbers, quantiles=torch.tensor([0.1005, 0.9005])))
    expected = [0.4269991, -0.03287581, 0.1551357, -0.4695391, 0.963935, 1.799963, 0.3449488, -0.2908101]
    assert found.timesteps.tolist() == [100, 900]
    assert found.noisy_latents[1, 1, 2].tolist() == pytest.approx(expected, abs=1e-6)
