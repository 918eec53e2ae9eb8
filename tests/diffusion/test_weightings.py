"""Weightings against the numbers that sd-scripts' own functions gave (commit 48d368fa, `custom_train_functions`, with
diffusers' scheduler of SD 1.5), and what they are where there is only noise."""

import pytest
import torch

from lorasmith.diffusion.flow import FlowMatching
from lorasmith.diffusion.objective import Weight
from lorasmith.diffusion.weightings import (
    cosmap,
    debiased_estimation,
    inverse_square,
    like_noise_prediction,
    like_v_prediction,
    min_snr,
)
from tests.diffusion.noising import noised

TIMESTEPS = (0, 1, 100, 500, 900, 999)
WEIGHTS: dict[str, tuple[Weight, tuple[float, ...]]] = {
    "min_snr 5": (min_snr(5.0, "epsilon"), (0.004253724, 0.008534431, 0.5914455, 1.0, 1.0, 1.0)),
    "min_snr 1": (min_snr(1.0, "epsilon"), (0.0008507448, 0.001706886, 0.1182891, 1.0, 1.0, 1.0)),
    "min_snr 5 v": (
        min_snr(5.0, "v_prediction"),
        (0.004250109, 0.008519888, 0.5288843, 0.2763325, 0.01415113, 0.004660094),
    ),
    "like noise": (like_noise_prediction, (0.999001, 0.998296, 0.8942232, 0.2763325, 0.01415113, 0.004660094)),
    "like v 0.5": (like_v_prediction(0.5), (1.5005, 1.500853, 1.559144, 2.809415, 36.33286, 108.294)),
    "debiased": (debiased_estimation("epsilon"), (0.03162278, 0.04131448, 0.3439318, 1.61828, 8.3466, 14.61465)),
    "debiased v": (
        debiased_estimation("v_prediction"),
        (0.000999001, 0.001703978, 0.1057769, 0.7236676, 0.9858489, 0.9953399),
    ),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_those_of_sd_scripts(name: str) -> None:
    weight, expected = WEIGHTS[name]
    # Its SNR at the first timesteps comes from a float32 product, ours from float64: 2e-5 apart.
    assert weight(noised(TIMESTEPS)).tolist() == pytest.approx(expected, rel=5e-5)


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (min_snr(5.0, "epsilon"), 1.0),
        (min_snr(5.0, "v_prediction"), 0.0),
        (like_noise_prediction, 0.0),
        (debiased_estimation("v_prediction"), 1.0),
    ],
)
def test_weights_are_finite_where_there_is_only_noise(weight: Weight, expected: float) -> None:
    """sd-scripts takes the ratio of the schedule as it was before it ended in pure noise, 0.0047 here."""
    assert weight(noised((999,), zero_terminal_snr=True)).tolist() == [expected]


def test_min_snr_weights_by_the_ratio_of_the_schedule_in_use() -> None:
    """Where the schedule is rescaled, so is the ratio: v-prediction at the timestep before the last."""
    rescaled, plain = noised((998,), zero_terminal_snr=True), noised((998,))
    assert rescaled.snr is not None and plain.snr is not None
    assert float(rescaled.snr) < float(plain.snr) / 1000
    assert torch.equal(min_snr(5.0, "v_prediction")(rescaled), rescaled.snr / (rescaled.snr + 1))


def test_weights_are_those_of_the_papers_at_every_timestep() -> None:
    """In float64: Hang et al. 2023, equation 9 and its form for v; Yu et al. 2023; Salimans & Ho 2022, section 4."""
    everywhere = noised(tuple(range(1000)))
    alpha_bar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
    snr = alpha_bar / (1 - alpha_bar)
    capped = snr.clamp(max=1000)
    formulas: list[tuple[Weight, torch.Tensor]] = [
        (min_snr(5.0, "epsilon"), torch.minimum(snr, torch.tensor(5.0)) / snr),
        (min_snr(5.0, "v_prediction"), torch.minimum(snr, torch.tensor(5.0)) / (snr + 1)),
        (debiased_estimation("epsilon"), capped**-0.5),
        (like_noise_prediction, capped / (capped + 1)),
        (like_v_prediction(0.5), 1 + 0.5 * (capped + 1) / capped),
    ]
    for weight, expected in formulas:
        torch.testing.assert_close(weight(everywhere).double(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("weight", "name"), [(inverse_square, "sigma_sqrt"), (cosmap, "cosmap")])
def test_weights_of_noise_levels_are_those_of_diffusers(weight: Weight, name: str) -> None:
    from diffusers.training_utils import compute_loss_weighting_for_sd3

    levels, zeros = torch.linspace(0.001, 1, 1000), torch.zeros(1000, 1, 1, 1)
    found = weight(FlowMatching().add_noise(zeros, zeros, levels))
    assert torch.allclose(found, compute_loss_weighting_for_sd3(name, levels), rtol=1e-5)
    lowest = weight(FlowMatching().add_noise(zeros[:1], zeros[:1], torch.zeros(1)))
    assert torch.isfinite(lowest).all() and lowest.item() == pytest.approx(found[0].item(), rel=1e-2)
