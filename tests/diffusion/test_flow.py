"""Flow matching: by its formulas, and against diffusers' scheduler."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lorasmith.diffusion.densities import CosMap, LogitNormal, Mode, Uniform
from lorasmith.diffusion.draw import Draw, Numbers, draw_numbers
from lorasmith.diffusion.flow import FixedShift, FlowMatching, ShiftByTokens
from lorasmith.diffusion.process import apply_noise
from lorasmith.diffusion.sampling import denoise

SHAPE = (2, 4, 6, 8)
QUANTILES = (torch.arange(4000) + 0.5) / 4000
DYNAMIC = ShiftByTokens(fewest=256, most=6400, least=0.5, greatest=1.15)  # Krea 2's


def drawn(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


# -- training --------------------------------------------------------------------------------------


def test_a_mixture_and_its_target_by_hand() -> None:
    picture, noise = torch.full((3, 1, 1, 1), 2.0), torch.full((3, 1, 1, 1), -1.0)
    noised = FlowMatching().add_noise(picture, noise, torch.tensor([0.0, 0.25, 1.0]))
    assert noised.noisy_latents.flatten().tolist() == [2.0, 1.25, -1.0]
    assert noised.target.flatten().tolist() == [-3.0, -3.0, -3.0]
    assert noised.snr is not None and noised.snr.tolist() == [math.inf, 9.0, 0.0]
    assert noised.sigma is noised.timesteps and noised.position is noised.timesteps


@pytest.mark.parametrize(("factor", "of_half"), [(1.0, 0.5), (3.0, 0.75), (0.5, 1 / 3)])
def test_a_shift_by_hand(factor: float, of_half: float) -> None:
    process = FlowMatching(training_shift=FixedShift(factor))
    levels = process.timesteps(torch.tensor([2**-24, 0.5, 1 - 2**-24]), SHAPE)
    assert levels.tolist() == pytest.approx([0, of_half, 1], abs=1e-6)


def test_a_shift_by_tokens_goes_through_its_points_and_beyond() -> None:
    """256, 6400 and 4096 tokens: the last are those of 1024 x 1024 pixels."""
    logarithms = [math.log(DYNAMIC.factor((1, 16, side, side))) for side in (32, 160, 128, 192)]
    assert logarithms == pytest.approx([0.5, 1.15, 0.5 + 0.65 * 3840 / 6144, 0.5 + 0.65 * 8960 / 6144])
    assert DYNAMIC.factor((1, 16, 128, 128)) == pytest.approx(2.475, abs=1e-3)
    assert DYNAMIC.factor((1, 16, 64, 256)) == DYNAMIC.factor((1, 16, 128, 128))


@pytest.mark.parametrize("density", [Uniform(), LogitNormal(), Mode(), CosMap()])
def test_levels_between_two_keep_the_shape_of_the_density(density: Any) -> None:
    whole = FlowMatching(density, FixedShift(3.0))
    part = whole.between(250, 600)
    levels, inside = whole.timesteps(QUANTILES, SHAPE), part.timesteps(QUANTILES, SHAPE)
    assert inside.min() >= 0.25 - 1e-6 and inside.max() <= 0.6 + 1e-6
    kept = levels[(levels >= 0.25) & (levels < 0.6)]
    expected = torch.quantile(kept, torch.tensor([0.1, 0.5, 0.9]))
    assert torch.allclose(torch.quantile(inside, torch.tensor([0.1, 0.5, 0.9])), expected, atol=3e-3)
    assert part.levels(4, 1.0, SHAPE) == whole.levels(4, 1.0, SHAPE)


def test_levels_are_rounded_before_anything_is_mixed() -> None:
    """The noise in the latents is that of the level that a bf16 denoiser reads."""
    process = FlowMatching(LogitNormal(), DYNAMIC).seen_in(torch.bfloat16)
    latents = drawn(0)
    numbers = draw_numbers(Draw(1, 2, 3), latents)
    noised = apply_noise(process, latents, numbers)
    read = noised.timesteps.to(torch.bfloat16).to(torch.float32)
    assert noised.timesteps.dtype == torch.float32 and torch.equal(read, noised.timesteps)
    exact = FlowMatching(LogitNormal(), DYNAMIC).timesteps(numbers.quantiles, SHAPE)
    assert not torch.equal(exact, read) and torch.allclose(exact, read, rtol=2**-8)
    in_float32 = FlowMatching(LogitNormal(), DYNAMIC, has_exact_levels=True).seen_in(torch.bfloat16)
    assert torch.equal(in_float32.timesteps(numbers.quantiles, SHAPE), exact)
    share = read.view(-1, 1, 1, 1)
    assert torch.equal(noised.noisy_latents, (1 - share) * latents + share * numbers.noise)


def test_a_perturbation_changes_no_target() -> None:
    numbers = Numbers(drawn(1), torch.tensor([0.2, 0.7]), drawn(2))
    plain, noised = (
        apply_noise(FlowMatching(), drawn(0), Numbers(numbers.noise, numbers.quantiles)),
        apply_noise(FlowMatching(), drawn(0), numbers),
    )
    assert torch.equal(plain.target, noised.target)
    share = noised.timesteps.view(-1, 1, 1, 1)
    assert torch.allclose(noised.noisy_latents - plain.noisy_latents, share * drawn(2), atol=1e-6)


# -- sampling --------------------------------------------------------------------------------------


def predict(sample: Tensor, timesteps: Tensor) -> Tensor:
    return torch.tanh(sample) * (1 + timesteps.view(-1, 1, 1, 1))


@pytest.mark.parametrize(("side", "last_level"), [(6, None), (160, None), (160, 0.02)])
def test_it_is_diffusers_scheduler(side: int, last_level: float | None) -> None:
    """With the shift by tokens, as its pipelines give the levels; 160 elements are 6400 tokens. Qwen-Image's levels are
    stretched."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    shape = (1, 4, side, side)
    theirs: Any = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=last_level)
    factor = DYNAMIC.factor(shape)
    theirs.set_timesteps(sigmas=np.linspace(1.0, 1 / 10, 10), mu=math.log(factor))
    start = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    sample = start
    for step in theirs.timesteps:
        sample = theirs.step(predict(sample, step[None] / 1000), step, sample).prev_sample
    process = FlowMatching(sampling_shift=DYNAMIC, last_level=last_level)
    found = denoise(predict, process, torch.zeros(shape), start, denoising_strength=1.0, steps=10)
    assert torch.allclose(found, sample, atol=1e-4)
    levels = torch.tensor([level.noise_scale for level in process.levels(10, 1.0, shape)])
    assert torch.allclose(levels, theirs.sigmas[:-1], atol=1e-6)


def test_it_is_eulers_method() -> None:
    x, levels = drawn(3), [1.0, 0.75, 0.5, 0.25, 0.0]
    for level, following in pairwise(levels):
        x = x + (following - level) * predict(x, torch.full((2,), level))
    found = denoise(predict, FlowMatching(), torch.zeros(SHAPE), drawn(3), denoising_strength=1.0, steps=4)
    assert torch.allclose(found, x, atol=1e-5)


@pytest.mark.parametrize("strength", [0.3, 0.6, 1.0])
def test_whoever_knows_the_picture_gets_it(strength: float) -> None:
    """From any strength, at which the first level lies whatever the shift."""
    process, clean = FlowMatching(sampling_shift=FixedShift(3.0)), drawn(0)
    levels = process.levels(12, strength, SHAPE)
    assert levels[0].noise_scale == pytest.approx(strength) and len(levels) == round(12 * strength)

    def knowing(sample: Tensor, timesteps: Tensor) -> Tensor:
        return (sample - clean) / timesteps.view(-1, 1, 1, 1)

    found = denoise(knowing, process, torch.zeros(SHAPE), drawn(1), denoising_strength=strength, steps=12)
    assert torch.allclose(found, clean, atol=1e-4)
