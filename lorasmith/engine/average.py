"""The exponential moving average of the weights, which is exported and evaluated in their place."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(slots=True)
class WeightAverage:
    """An average over the steps so far, float32, whose decay rises to `decay`.

    The decay of step k is at most (1 + k) / (10 + k), as in the averages of TensorFlow and diffusers: without that the
    first weights, which change nothing, would count for thousands of steps.
    """

    decay: float
    weights: Tensor  # (P,), like the adapter's buffer

    def add(self, weights: Tensor, *, step: int, found_inf: Tensor | None) -> None:
        """Takes in the weights after `step`. `found_inf`: positive where the device skipped the step, which the host
        does not know yet; then nothing changes."""
        share = 1.0 - min(self.decay, (1 + step) / (10 + step))
        own = weights.to(self.weights.dtype)
        if found_inf is None:
            self.weights.lerp_(own, share)
        else:
            self.weights.lerp_(own, share * (found_inf == 0).to(self.weights.dtype))
