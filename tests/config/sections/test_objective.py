from typing import Any

import pytest

from lorasmith.config.sections import LossConfig, NoiseConfig


@pytest.mark.parametrize(
    ("given", "unused"),
    [
        ({}, []),
        ({"loss_type": "huber", "huber_c": 0.2, "huber_schedule": "constant", "huber_scale": 2.0}, []),
        ({"huber_c": 0.2, "huber_scale": 2.0}, ["huber-c", "huber-scale"]),
        ({"loss_type": "l1", "huber_schedule": "constant"}, ["huber-schedule"]),
        ({"mask_folder": "masks"}, ["conditioning-data-dir"]),
        ({"mask_folder": "masks", "masked_loss": True}, []),
        ({"loss_type": "smooth_l1", "huber_scale": 2.0}, ["huber-scale"]),  # the schedule is that of the SNR
    ],
)
def test_settings_of_a_threshold_without_effect(given: dict[str, Any], unused: list[str]) -> None:
    assert [one.option for one in LossConfig(**given).unused_options] == unused


@pytest.mark.parametrize(
    ("given", "unused"),
    [
        ({"offset": 0.1, "has_random_offset": True, "multires_iterations": 6, "multires_discount": 0.5}, []),
        ({"perturbation": 0.1, "has_random_perturbation": True}, []),
        ({"has_random_offset": True, "multires_discount": 0.5, "has_random_perturbation": True}, None),
    ],
)
def test_settings_of_noise_without_effect(given: dict[str, Any], unused: list[str] | None) -> None:
    every = ["noise-offset-random-strength", "multires-noise-discount", "ip-noise-gamma-random-strength"]
    assert [one.option for one in NoiseConfig(**given).unused_options] == (every if unused is None else unused)


def test_weightings_that_are_set() -> None:
    assert LossConfig().weightings == ()
    assert LossConfig(debiased_estimation=True, min_snr_gamma=5).weightings == (
        "min-snr-gamma",
        "debiased-estimation-loss",
    )
