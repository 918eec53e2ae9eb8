import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from lorasmith.diffusion.noise_schedules import DdpmSchedule, Draw, OwnDraws

SD15: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
}


def schedule(prediction: Any = "epsilon", *, ztsnr: bool = False, **changed: Any) -> DdpmSchedule:
    return DdpmSchedule.build(**{**SD15, **changed}, prediction=prediction, zero_terminal_snr=ztsnr)


def of_diffusers(prediction: str, ztsnr: bool, **changed: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import warns of what is not ours
        from diffusers import DDPMScheduler
    return DDPMScheduler(**{**SD15, **changed}, prediction_type=prediction, rescale_betas_zero_snr=ztsnr)


# -- draws -----------------------------------------------------------------------------------------

SHAPE = (3, 4, 5, 7)


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_a_draw_is_a_function_of_its_names_alone(kind: str) -> None:
    def drawn() -> Tensor:
        return getattr(Draw(seed=42, step=3, micro=1, size=3), kind)("noise", SHAPE)

    first = drawn()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert torch.equal(drawn(), first)
    assert torch.equal(torch.get_rng_state(), before)  # torch's own generator is neither asked nor moved
    assert (first.shape, first.dtype, first.device.type) == (SHAPE, torch.float32, "cpu")


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_what_else_is_drawn_before_changes_nothing(kind: str) -> None:
    draw = Draw(seed=42, step=3, micro=1, size=3)
    alone = getattr(draw, kind)("noise", SHAPE)
    draw.normal("noise_offset", (3, 4, 1, 1))
    draw.uniform("timestep", (3,))
    assert torch.equal(getattr(draw, kind)("noise", SHAPE), alone)


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_other_names_numbers_and_seeds_give_other_numbers(kind: str) -> None:
    places = [(seed, step, micro, name) for seed in (0, 42) for step in (1, 2, 11) for micro in (0, 1) for name in "ab"]
    draws = [getattr(Draw(s, t, m, 2), kind)(name, (2, 500)).flatten() for s, t, m, name in places]
    correlations = torch.corrcoef(torch.stack(draws)) - torch.eye(len(draws))
    assert correlations.abs().max() < 0.2  # of 1,000 numbers: six standard deviations


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_slices_get_their_part_of_the_whole(kind: str) -> None:
    whole = Draw(seed=1, step=2, micro=0, size=5)
    numbers = getattr(whole, kind)("noise", (5, 4, 3, 3))
    for cuts in ([1, 1, 1, 1, 1], [2, 3], [3, 2], [4, 1], [5]):
        parts, start = [], 0
        for count in cuts:
            parts.append(getattr(whole.rows(start), kind)("noise", (count, 4, 3, 3)))
            start += count
        assert torch.equal(torch.cat(parts), numbers)
    # A slice of a slice, as when memory runs out twice.
    again = getattr(whole.rows(2).rows(1), kind)("noise", (2, 4, 3, 3))
    assert torch.equal(again, numbers[3:5])


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_more_than_the_micro_batch_cannot_be_drawn(kind: str) -> None:
    with pytest.raises(AssertionError):
        getattr(Draw(seed=1, step=2, micro=0, size=3).rows(2), kind)("noise", (2, 4))


def test_normal_numbers_are_normal() -> None:
    numbers = Draw(seed=42, step=1, micro=0, size=4).normal("noise", (4, 4, 64, 64)).double()
    assert abs(numbers.mean()) < 0.02 and abs(numbers.var() - 1) < 0.03
    assert abs((numbers**4).mean() - 3) < 0.15


def test_uniform_numbers_fill_the_open_interval_evenly() -> None:
    numbers = Draw(seed=42, step=1, micro=0, size=4).uniform("timestep", (4, 50_000)).double()
    assert 0 < numbers.min() < 1e-4 and 1 - 1e-4 < numbers.max() < 1
    counts = torch.histc(numbers.flatten(), bins=20, min=0, max=1)
    assert ((counts - 10_000).abs() < 500).all()


def test_uniform_numbers_reach_neither_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the two ends of the grid, which no test would meet by chance."""
    ends = torch.tensor([0, (1 << 23) - 1])

    def edge(low: int, high: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        assert (low, high, shape) == (0, 1 << 23, (2,))
        return ends

    monkeypatch.setattr(torch, "randint", edge)
    numbers = Draw(seed=0, step=1, micro=0, size=2).uniform("timestep", (2,))
    assert numbers.tolist() == [2**-24, 1 - 2**-24]
    assert schedule().timesteps(numbers).tolist() == [0, 999]


# -- timesteps -------------------------------------------------------------------------------------


def test_timesteps_are_equally_likely_and_in_range() -> None:
    middles = (torch.arange(4000) + 0.5) / 4000
    counts = torch.bincount(schedule().timesteps(middles), minlength=1000)
    assert counts.tolist() == [4] * 1000
    assert schedule().timesteps(torch.tensor([0.0, 1.0])).tolist() == [0, 999]
    assert schedule(num_train_timesteps=7).timesteps(torch.tensor([0.14, 0.15, 0.999])).tolist() == [0, 1, 6]


# -- the schedule ----------------------------------------------------------------------------------


def test_the_schedule_of_stable_diffusion_has_its_known_ends() -> None:
    alphas = schedule().alphas_cumprod
    assert (len(alphas), alphas.dtype) == (1000, torch.float32)
    assert alphas[0].item() == pytest.approx(1 - 0.00085, abs=1e-7)
    assert alphas[999].item() == pytest.approx(0.0046600, abs=1e-6)
    assert (alphas[1:] < alphas[:-1]).all()


def test_betas_by_hand() -> None:
    linear = schedule(beta_start=0.1, beta_end=0.3, num_train_timesteps=3, beta_schedule="linear").alphas_cumprod
    assert torch.allclose(linear, torch.tensor([0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7]))
    scaled = schedule(beta_start=0.04, beta_end=0.16, num_train_timesteps=3).alphas_cumprod
    assert torch.allclose(scaled, torch.tensor([0.96, 0.96 * 0.91, 0.96 * 0.91 * 0.84]))


@pytest.mark.parametrize("beta_schedule", ["scaled_linear", "linear"])
@pytest.mark.parametrize("ztsnr", [False, True])
@pytest.mark.parametrize("count", [1000, 10])
def test_the_schedule_is_that_of_diffusers(beta_schedule: str, ztsnr: bool, count: int) -> None:
    changed: dict[str, Any] = {"beta_schedule": beta_schedule, "num_train_timesteps": count}
    theirs = of_diffusers("epsilon", ztsnr, **changed).alphas_cumprod
    assert torch.allclose(schedule(ztsnr=ztsnr, **changed).alphas_cumprod, theirs, rtol=2e-5, atol=1e-6)


def test_zero_terminal_snr_ends_in_pure_noise_and_begins_as_before() -> None:
    plain, zero = schedule().alphas_cumprod, schedule("v_prediction", ztsnr=True).alphas_cumprod
    assert zero[-1].item() == 0.0 and plain[-1].item() > 0.004
    assert zero[0].item() == pytest.approx(plain[0].item(), abs=1e-7)
    assert (zero[1:] < zero[:-1]).all()


# -- adding noise ----------------------------------------------------------------------------------


def one(value: float) -> Tensor:
    return torch.full((1, 1, 1, 1), value)


@pytest.mark.parametrize(("prediction", "target"), [("epsilon", 5.0), ("v_prediction", 0.6 * 5.0 - 0.8 * 2.0)])
def test_noise_is_added_as_by_hand(prediction: Any, target: float) -> None:
    known = DdpmSchedule(torch.tensor([1.0, 0.36, 0.0]), prediction)  # sqrt: 0.6 and 0.8
    noised = known.add_noise(one(2.0), one(5.0), torch.tensor([1]))
    assert noised.sample.item() == pytest.approx(0.6 * 2 + 0.8 * 5)
    assert noised.target.item() == pytest.approx(target)
    assert noised.timesteps.tolist() == [1]


def test_at_the_ends_there_is_the_picture_or_the_noise_alone() -> None:
    known = DdpmSchedule(torch.tensor([1.0, 0.36, 0.0]), "v_prediction")
    clean, pure = (known.add_noise(one(2.0), one(5.0), torch.tensor([at])) for at in (0, 2))
    assert (clean.sample.item(), clean.target.item()) == (2.0, 5.0)
    assert (pure.sample.item(), pure.target.item()) == (5.0, -2.0)


def random_case(count: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    draw = Draw(seed=9, step=1, micro=0, size=count)
    shape = (count, 4, 8, 6)
    return draw.normal("x", shape), draw.normal("n", shape), torch.tensor([0, 1, 250, 500, 998, 999][:count])


@pytest.mark.parametrize("ztsnr", [False, True])
def test_both_targets_say_the_same(ztsnr: bool) -> None:
    """From the sample and v both picture and noise come back."""
    latents, noise, timesteps = random_case()
    epsilon = schedule("epsilon", ztsnr=ztsnr).add_noise(latents, noise, timesteps)
    v = schedule("v_prediction", ztsnr=ztsnr).add_noise(latents, noise, timesteps)
    assert torch.equal(epsilon.target, noise) and torch.equal(epsilon.sample, v.sample)
    alpha_bar = schedule(ztsnr=ztsnr).alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    signal, scale = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    assert torch.allclose(signal * v.sample - scale * v.target, latents, atol=1e-5)
    assert torch.allclose(scale * v.sample + signal * v.target, noise, atol=1e-5)
    if ztsnr:
        assert torch.equal(v.sample[5], noise[5]) and torch.equal(v.target[5], -latents[5])


@pytest.mark.parametrize("ztsnr", [False, True])
def test_noise_is_added_as_diffusers_does(ztsnr: bool) -> None:
    latents, noise, timesteps = random_case()
    theirs = of_diffusers("v_prediction", ztsnr)
    ours = schedule("v_prediction", ztsnr=ztsnr).add_noise(latents, noise, timesteps)
    assert torch.allclose(ours.sample, theirs.add_noise(latents, noise, timesteps), atol=2e-5)
    assert torch.allclose(ours.target, theirs.get_velocity(latents, noise, timesteps), atol=2e-5)


def test_an_example_is_noised_as_if_it_were_alone() -> None:
    latents, noise, timesteps = random_case()
    whole = schedule("v_prediction").add_noise(latents, noise, timesteps)
    for row in range(6):
        cut = slice(row, row + 1)
        alone = schedule("v_prediction").add_noise(latents[cut], noise[cut], timesteps[cut])
        assert torch.equal(alone.sample, whole.sample[cut]) and torch.equal(alone.target, whole.target[cut])


def test_the_variance_is_kept() -> None:
    draw = Draw(seed=3, step=1, micro=0, size=1)
    latents, noise = draw.normal("x", (1, 4, 128, 128)), draw.normal("n", (1, 4, 128, 128))
    for timestep in (0, 300, 999):
        sample = schedule().add_noise(latents, noise, torch.tensor([timestep])).sample
        assert math.isclose(sample.var().item(), 1.0, abs_tol=0.03)


def test_own_draws_do_not_depend_on_the_others() -> None:
    draws = [Draw(seed, 0, 1, 1, quantile=quantile) for seed, quantile in ((5, None), (6, 0.375))]
    both = OwnDraws(draws)
    for row, draw in enumerate(draws):
        assert torch.equal(both.normal("noise", (2, 4, 8, 8))[row : row + 1], draw.normal("noise", (1, 4, 8, 8)))
        assert torch.equal(both.uniform("timestep", (2,))[row : row + 1], draw.uniform("timestep", (1,)))
    assert not torch.equal(*both.normal("noise", (2, 4, 8, 8)))


def test_a_fixed_quantile_is_no_draw() -> None:
    plain, fixed = Draw(1, 2, 3, 4), Draw(1, 2, 3, 4, quantile=0.375)
    assert fixed.uniform("timestep", (4,)).tolist() == [0.375] * 4
    assert fixed.rows(2).uniform("timestep", (2,)).tolist() == [0.375] * 2
    assert torch.equal(fixed.normal("noise", (4, 3)), plain.normal("noise", (4, 3)))
    assert torch.equal(fixed.uniform("other", (4,)), plain.uniform("other", (4,)))
