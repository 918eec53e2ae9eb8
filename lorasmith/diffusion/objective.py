"""The quantity that training minimises: a distance of prediction and target, one number for each example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lorasmith.diffusion.process import Noised

Elementwise = Callable[[Tensor, Tensor, Noised], Tensor]
Weight = Callable[[Noised], Tensor]


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss as a value: another loss or weighting is another value, not another function that trains."""

    elementwise: Elementwise  # prediction, target (both float32) and what they belong to -> a tensor of their shape
    weights: tuple[Weight, ...] = ()  # each gives a factor for every example, (B,)

    def losses(
        self, prediction: Tensor, noised: Noised, *, mask: Tensor | None = None, factors: Tensor | None = None
    ) -> Tensor:
        """The weighted mean over all but the first dimension: (B, ...) -> (B,), in float32.

        Args:
            mask: (B, h, w), the share of each element's loss that counts, for all channels. The mean is over all
                elements: half a mask is half a loss.
            factors: (B,), of the examples' losses.
        """
        elements = self.elementwise(prediction.float(), noised.target.float(), noised)
        if mask is not None:
            elements = elements * mask.float().unsqueeze(1)
        losses = elements.flatten(1).mean(1)
        if factors is not None:
            losses = losses * factors
        for weight in self.weights:
            losses = losses * weight(noised)
        return losses


def squared_error(prediction: Tensor, target: Tensor, _noised: Noised) -> Tensor:
    """The square of each element's error."""
    return (prediction - target).square()


MSE = Objective(squared_error)
"""The plain mean squared error of Ho et al. (2020)."""
