"""Random numbers of a micro-batch: functions of their names, drawn on the CPU, before the step."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from lorasmith.diffusion.draw import Draw, NoiseOptions, Numbers, draw_numbers

SHAPE = (3, 4, 5, 7)
LATENTS = torch.zeros(SHAPE)


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_a_draw_is_a_function_of_its_names_alone(kind: str) -> None:
    def drawn() -> Tensor:
        return getattr(Draw(seed=42, step=3, micro=1), kind)("noise", SHAPE)

    first = drawn()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert torch.equal(drawn(), first)
    assert torch.equal(torch.get_rng_state(), before)  # torch's own generator is neither asked nor moved
    assert (first.shape, first.dtype, first.device.type) == (SHAPE, torch.float32, "cpu")


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_what_else_is_drawn_before_changes_nothing(kind: str) -> None:
    draw = Draw(seed=42, step=3, micro=1)
    alone = getattr(draw, kind)("noise", SHAPE)
    draw.normal("noise_offset", (3, 4, 1, 1))
    draw.uniform("timestep", (3,))
    assert torch.equal(getattr(draw, kind)("noise", SHAPE), alone)


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_other_names_numbers_and_seeds_give_other_numbers(kind: str) -> None:
    places = [(seed, step, micro, name) for seed in (0, 42) for step in (1, 2, 11) for micro in (0, 1) for name in "ab"]
    draws = [getattr(Draw(s, t, m), kind)(name, (2, 500)).flatten() for s, t, m, name in places]
    correlations = torch.corrcoef(torch.stack(draws)) - torch.eye(len(draws))
    assert correlations.abs().max() < 0.2  # of 1,000 numbers: six standard deviations


def test_normal_numbers_are_normal() -> None:
    numbers = Draw(seed=42, step=1, micro=0).normal("noise", (4, 4, 64, 64)).double()
    assert abs(numbers.mean()) < 0.02 and abs(numbers.var() - 1) < 0.03
    assert abs((numbers**4).mean() - 3) < 0.15


def test_uniform_numbers_fill_the_open_interval_evenly() -> None:
    numbers = Draw(seed=42, step=1, micro=0).uniform("timestep", (4, 50_000)).double()
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
    numbers = Draw(seed=0, step=1, micro=0).uniform("timestep", (2,))
    assert numbers.tolist() == [2**-24, 1 - 2**-24]


# -- numbers ---------------------------------------------------------------------------------------


def same(left: Numbers, right: Numbers) -> bool:
    pairs = [(getattr(left, field.name), getattr(right, field.name)) for field in fields(Numbers)]
    return all(torch.equal(one, other) if one is not None else other is None for one, other in pairs)


def test_numbers_of_a_micro_batch_are_its_draws() -> None:
    draw = Draw(seed=42, step=3, micro=1)
    numbers = draw_numbers(draw, LATENTS)
    assert torch.equal(numbers.noise, draw.normal("noise", SHAPE))
    assert torch.equal(numbers.quantiles, draw.uniform("timestep", (3,)))


@pytest.mark.parametrize("cuts", [[1, 1, 1, 1, 1], [2, 3], [4, 1], [5]])
@pytest.mark.parametrize("options", [NoiseOptions(), NoiseOptions(perturbation=0.1)])
def test_slices_joined_are_the_whole(cuts: list[int], options: NoiseOptions) -> None:
    whole = draw_numbers(Draw(seed=1, step=2, micro=0), torch.zeros(5, 4, 3, 3), options)
    parts, start = [], 0
    for count in cuts:
        parts.append(whole.rows(start, start + count))
        start += count
    assert same(Numbers.joined(parts), whole)


def test_an_offset_shifts_whole_channels_and_nothing_else() -> None:
    draw, shape = Draw(seed=42, step=3, micro=1), (3, 4, 64, 64)
    latents = torch.zeros(shape)
    plain, shifted = draw_numbers(draw, latents), draw_numbers(draw, latents, NoiseOptions(offset=0.1))
    shift = shifted.noise - plain.noise
    expected = 0.1 * draw.normal("noise_offset", (3, 4, 1, 1))
    assert torch.allclose(shift, expected.expand(shape), atol=1e-6)
    assert torch.equal(shifted.quantiles, plain.quantiles)


# Row 2 of the second channel of the second example, as sd-scripts' own functions (commit 48d368fa, `apply_noise_offset`
# and `pyramid_noise_like`, by `get_noise_noisy_latents_and_timesteps`) gave it for the same random numbers.
SD_SCRIPTS: dict[str, tuple[NoiseOptions, list[float]]] = {
    "offset": (
        NoiseOptions(offset=0.1),
        [0.6047878, -0.1932073, 0.05568957, -0.5358111, 0.7599366, 1.958943, 0.1428899, -0.08299344],
    ),
    "random offset": (
        NoiseOptions(offset=0.1, has_random_offset=True),
        [0.6064132, -0.1915819, 0.05731497, -0.5341856, 0.761562, 1.960568, 0.1445153, -0.08136804],
    ),
    "adaptive offset": (
        NoiseOptions(offset=0.02, adaptive_scale=-0.2),
        [0.6295593, -0.1684358, 0.08046108, -0.5110396, 0.7847081, 1.983714, 0.1676614, -0.05822192],
    ),
    "levels": (
        NoiseOptions(levels=6),
        [0.76021, 0.2012026, 1.324693, -0.08685242, 0.9012895, 1.820474, 1.718005, 0.437027],
    ),
    "offset and levels": (
        NoiseOptions(offset=0.1, levels=3, level_discount=0.8),
        [0.8014174, 0.2623486, 1.330916, -0.05998234, 0.8632147, 1.719913, 1.606249, 0.3709611],
    ),
}


@pytest.mark.parametrize("name", SD_SCRIPTS)
def test_noise_is_that_of_sd_scripts(name: str) -> None:
    options, expected = SD_SCRIPTS[name]
    latents = Draw(1, 1, 1).normal("latents", (2, 2, 6, 8))
    draw = Draw(7, 3, 1)
    numbers = draw_numbers(draw, latents, options)
    assert numbers.noise[1, 1, 2].tolist() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(numbers.quantiles, draw_numbers(draw, latents).quantiles)
    assert same(draw_numbers(draw, latents, options), numbers)


def test_an_offset_is_never_negative() -> None:
    latents = torch.full((1, 4, 8, 8), 3.0)
    draw = Draw(7, 3, 1)
    numbers = draw_numbers(draw, latents, NoiseOptions(offset=0.1, adaptive_scale=-1.0))
    assert torch.equal(numbers.noise, draw_numbers(draw, latents).noise)


def test_levels_end_at_a_single_row() -> None:
    """Of an 8 x 8 picture at most four levels have more than a row, however many are asked for."""
    draw, latents = Draw(7, 3, 1), torch.zeros(1, 4, 8, 8)
    few, many = (draw_numbers(draw, latents, NoiseOptions(levels=count)) for count in (5, 64))
    assert same(few, many)
    assert float(few.noise.std()) == pytest.approx(1.0)


def test_a_perturbation_is_drawn_besides_the_noise() -> None:
    draw = Draw(seed=42, step=3, micro=1)
    fixed = draw_numbers(draw, LATENTS, NoiseOptions(perturbation=0.1))
    varied = draw_numbers(draw, LATENTS, NoiseOptions(perturbation=0.1, has_random_perturbation=True))
    assert torch.equal(fixed.noise, draw_numbers(draw, LATENTS).noise)
    assert fixed.perturbation is not None and varied.perturbation is not None
    assert torch.equal(fixed.perturbation, 0.1 * draw.normal("perturbation", SHAPE))
    assert torch.allclose(varied.perturbation, draw.uniform("perturbation_share", (1,)) * fixed.perturbation)
