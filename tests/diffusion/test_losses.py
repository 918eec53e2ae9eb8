"""Losses between the square and the absolute error, against the numbers that sd-scripts' own functions gave (commit
48d368fa: `get_huber_threshold_if_needed` and `conditional_loss`, with diffusers' scheduler of SD 1.5)."""

import pytest
import torch
from torch import Tensor

from lorasmith.diffusion.losses import (
    Threshold,
    absolute_error,
    constant_threshold,
    exponential_threshold,
    pseudo_huber,
    smooth_l1,
    snr_threshold,
)
from lorasmith.diffusion.objective import Objective
from tests.diffusion.noising import noised

ERRORS = (0.001, 0.05, 0.1, 1.0, 4.0)
TIMESTEPS = (0, 500, 999)
THRESHOLDS: dict[str, tuple[Threshold, tuple[float, ...]]] = {
    "constant": (constant_threshold(0.1, 3.0), (0.3, 0.3, 0.3)),
    "exponential": (exponential_threshold(0.1, 3.0), (3.0, 0.9486833, 0.3006916)),
    "snr": (snr_threshold(0.1), (0.9497092, 0.2312836, 0.1036913)),
    "snr, 0.5": (snr_threshold(0.5), (0.9720607, 0.5729353, 0.5020507)),
}
# Of each loss and schedule, at the last of the timesteps and in the middle: by error.
LOSSES = {
    ("huber", "constant", 999): (9.999973e-07, 0.002482876, 0.00973666, 0.4464184, 2.226741),
    ("huber", "exponential", 500): (9.999998e-07, 0.002498266, 0.009972376, 0.8153394, 6.0),
    ("huber", "exponential", 999): (9.999973e-07, 0.002482954, 0.009737808, 0.4471513, 2.231489),
    ("huber", "snr", 500): (9.999954e-07, 0.002471453, 0.009571808, 0.3677936, 1.746375),
    ("huber", "snr, 0.5", 999): (9.999991e-07, 0.002493832, 0.009902736, 0.6194321, 3.543808),
    ("smooth_l1", "constant", 999): (3.333324e-06, 0.008276253, 0.03245553, 1.488061, 7.422468),
    ("smooth_l1", "exponential", 500): (1.054092e-06, 0.002633404, 0.01051181, 0.8594432, 6.324555),
    ("smooth_l1", "snr", 999): (9.643788e-06, 0.02285107, 0.0807277, 1.803341, 7.795305),
}


def errors_of(count: int) -> Tensor:
    return torch.tensor(ERRORS).expand(count, 1, 1, -1)


@pytest.mark.parametrize("schedule", THRESHOLDS)
def test_thresholds_are_those_of_sd_scripts(schedule: str) -> None:
    threshold, expected = THRESHOLDS[schedule]
    assert threshold(noised(TIMESTEPS)).tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("kind", "schedule", "timestep"), LOSSES)
def test_losses_are_those_of_sd_scripts(kind: str, schedule: str, timestep: int) -> None:
    loss = (pseudo_huber if kind == "huber" else smooth_l1)(THRESHOLDS[schedule][0])
    where = noised((timestep,), width=len(ERRORS))
    found = loss(errors_of(1), where.target, where).flatten().tolist()
    assert found == pytest.approx(LOSSES[kind, schedule, timestep], rel=2e-6)


def test_each_example_has_the_threshold_of_its_timestep() -> None:
    where = noised(TIMESTEPS, width=len(ERRORS))
    loss = pseudo_huber(THRESHOLDS["snr"][0])
    whole = loss(errors_of(3), where.target, where)
    for row, timestep in enumerate(TIMESTEPS):
        alone = noised((timestep,), width=len(ERRORS))
        assert torch.equal(loss(errors_of(1), alone.target, alone), whole[row : row + 1])


def test_an_error_far_below_the_threshold_is_no_zero() -> None:
    """In float32 the difference sqrt(d^2 + c^2) - c would be 0."""
    where = noised((0,))
    prediction = torch.full((1, 1, 1, 1), 1e-5, requires_grad=True)
    loss = Objective(pseudo_huber(constant_threshold(1.0, 1.0))).losses(prediction, where)
    assert float(loss.detach()) == pytest.approx(1e-10, rel=1e-6, abs=0)
    loss.backward()
    assert prediction.grad is not None and float(prediction.grad) == pytest.approx(2e-5)


def test_thresholds_are_finite_where_there_is_only_noise() -> None:
    where = noised((999,), zero_terminal_snr=True)
    assert where.snr is not None and where.snr.tolist() == [0.0]
    assert snr_threshold(0.1)(where).tolist() == pytest.approx([0.1])


def test_the_absolute_error() -> None:
    where = noised((0,), width=len(ERRORS))
    assert absolute_error(-errors_of(1), where.target, where).flatten().tolist() == pytest.approx(ERRORS)
