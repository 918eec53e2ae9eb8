"""Elementwise losses besides the square, and their threshold, which may depend on the timestep. docs/losses.md has the
formulas with their sources."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lorasmith.diffusion.objective import Elementwise
from lorasmith.diffusion.process import Noised

Threshold = Callable[[Noised], Tensor]
"""The error at which a loss turns from a square into a line, for each example: (B,)."""


def absolute_error(prediction: Tensor, target: Tensor, _noised: Noised) -> Tensor:
    """The absolute value of each element's error (L1)."""
    return (prediction - target).abs()


def pseudo_huber(threshold: Threshold) -> Elementwise:
    """2 c (sqrt(d^2 + c^2) - c): a square where the error d is small, 2 c |d| where it is large (Charbonnier et al.
    1997)."""

    def loss(prediction: Tensor, target: Tensor, noised: Noised) -> Tensor:
        limit = _like(prediction, threshold(noised))
        return 2 * limit * _beyond(prediction - target, limit)

    return loss


def smooth_l1(threshold: Threshold) -> Elementwise:
    """2 (sqrt(d^2 + c^2) - c): the pseudo-Huber loss divided by c, 2 |d| where the error is large, whatever c is."""

    def loss(prediction: Tensor, target: Tensor, noised: Noised) -> Tensor:
        return 2 * _beyond(prediction - target, _like(prediction, threshold(noised)))

    return loss


def constant_threshold(c: float, scale: float) -> Threshold:
    """The same at every timestep: scale * c."""
    return lambda noised: noised.timesteps.new_full((len(noised.timesteps),), scale * c, dtype=noised.target.dtype)


def exponential_threshold(c: float, scale: float) -> Threshold:
    """Exponential in the timestep, scale * c^(t / T): from `scale` without noise to scale * c with the most."""

    def threshold(noised: Noised) -> Tensor:
        assert noised.position is not None, "a process without positions"
        return scale * c**noised.position

    return threshold


def snr_threshold(c: float) -> Threshold:
    """(1 - c) / (1 + s)^2 + c, where s = 1 / sqrt(SNR): from nearly 1 without noise to c with the most."""

    def threshold(noised: Noised) -> Tensor:
        assert noised.snr is not None, "a process without a signal-to-noise ratio"
        return (1 - c) / (1 + noised.snr.rsqrt()).square() + c

    return threshold


def _beyond(error: Tensor, limit: Tensor) -> Tensor:
    """sqrt(d^2 + c^2) - c, as a quotient: the difference of two equal numbers would lose a small d."""
    square = error.square()
    return square / ((square + limit.square()).sqrt() + limit)


def _like(values: Tensor, by_example: Tensor) -> Tensor:
    """(B,) as (B, 1, ...), in float32."""
    return by_example.float().view(-1, *[1] * (values.ndim - 1))
