"""Random numbers of a micro-batch: functions of their names, drawn on the CPU, before the step."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from lorasmith.diffusion.draw import Draw, NoiseOptions, Numbers, draw_numbers

SHAPE = (3, 4, 5, 7)


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
    return all(torch.equal(getattr(left, field.name), getattr(right, field.name)) for field in fields(Numbers))


def test_numbers_of_a_micro_batch_are_its_draws() -> None:
    draw = Draw(seed=42, step=3, micro=1)
    numbers = draw_numbers(draw, SHAPE)
    assert torch.equal(numbers.noise, draw.normal("noise", SHAPE))
    assert torch.equal(numbers.quantiles, draw.uniform("timestep", (3,)))


@pytest.mark.parametrize("cuts", [[1, 1, 1, 1, 1], [2, 3], [4, 1], [5]])
def test_slices_joined_are_the_whole(cuts: list[int]) -> None:
    whole = draw_numbers(Draw(seed=1, step=2, micro=0), (5, 4, 3, 3))
    parts, start = [], 0
    for count in cuts:
        parts.append(whole.rows(start, start + count))
        start += count
    assert same(Numbers.joined(parts), whole)


def test_an_offset_shifts_whole_channels_and_nothing_else() -> None:
    draw, shape = Draw(seed=42, step=3, micro=1), (3, 4, 64, 64)
    plain, shifted = draw_numbers(draw, shape), draw_numbers(draw, shape, NoiseOptions(offset=0.1))
    shift = shifted.noise - plain.noise
    expected = 0.1 * draw.normal("noise_offset", (3, 4, 1, 1))
    assert torch.allclose(shift, expected.expand(shape), atol=1e-6)
    assert torch.equal(shifted.quantiles, plain.quantiles)
