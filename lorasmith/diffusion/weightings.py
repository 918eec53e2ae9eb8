"""Weightings of the loss by the signal-to-noise ratio of an example, or by its noise level where a process mixes
linearly. docs/losses.md has formulas and sources.

The ratio is 0 at the last timestep of a process that ends in pure noise. The weights of v-prediction are finite there;
of those of noise prediction, only min-SNR is: settings are checked for that.
"""

from __future__ import annotations

import math

from torch import Tensor

from lorasmith.diffusion.objective import Weight
from lorasmith.diffusion.process import Noised, Prediction

MAX_SNR = 1000.0
"""The bound that sd-scripts has in all weightings but min-SNR: only the first timestep or two are beyond it."""
LEAST_LEVEL = 1 / 1000
"""The bound of the noise level in `inverse_square`: the lowest level of the reference's list of 1000."""


def min_snr(gamma: float, prediction: Prediction) -> Weight:
    """min(SNR, gamma) / SNR, or / (SNR + 1) for v-prediction (Hang et al. 2023)."""

    def weight(noised: Noised) -> Tensor:
        snr = _snr(noised)
        if prediction == "v_prediction":
            return snr.clamp(max=gamma) / (snr + 1)
        return (gamma / snr).clamp(max=1)

    return weight


def debiased_estimation(prediction: Prediction) -> Weight:
    """1 / sqrt(SNR) (Yu et al. 2023), or as sd-scripts has it for v-prediction 1 / (SNR + 1)."""

    def weight(noised: Noised) -> Tensor:
        snr = _snr(noised).clamp(max=MAX_SNR)
        return 1 / (snr + 1) if prediction == "v_prediction" else snr.rsqrt()

    return weight


def like_noise_prediction(noised: Noised) -> Tensor:
    """SNR / (SNR + 1): the loss of v-prediction weighted as that of noise prediction."""
    snr = _snr(noised).clamp(max=MAX_SNR)
    return snr / (snr + 1)


def like_v_prediction(factor: float) -> Weight:
    """1 + factor (SNR + 1) / SNR: adds the loss of noise prediction as v-prediction would weight it."""

    def weight(noised: Noised) -> Tensor:
        snr = _snr(noised).clamp(max=MAX_SNR)
        return 1 + factor * (snr + 1) / snr

    return weight


def inverse_square(noised: Noised) -> Tensor:
    """1 / s^2 for the noise level s: the loss of the picture that a prediction implies becomes that of the velocity
    (`sigma_sqrt` of Esser et al. 2024 as diffusers has it)."""
    return _level(noised).clamp(min=LEAST_LEVEL) ** -2


def cosmap(noised: Noised) -> Tensor:
    """2 / (pi (1 - 2 s + 2 s^2)) for the noise level s: the density of `densities.CosMap` as a weight of a uniform
    density (Esser et al. 2024)."""
    level = _level(noised)
    return 2 / (math.pi * (1 - 2 * level + 2 * level.square()))


def _level(noised: Noised) -> Tensor:
    assert noised.sigma is not None, "a process that does not mix linearly"
    return noised.sigma


def _snr(noised: Noised) -> Tensor:
    assert noised.snr is not None, "a process without a signal-to-noise ratio"
    return noised.snr
