"""What the loop asks of an adapter: the small trainable part beside the frozen weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

from lorasmith.targets import TargetModule


class Adapter(Protocol):
    """All trainable numbers lie in one flat float32 buffer, ordered by component, then target; parameters and their
    gradients are views into it and its gradient, so that clipping, checking, summing and updating are single calls.
    """

    flat: Tensor
    """(P,) float32, on the device."""

    @classmethod
    def attach(cls, targets: Sequence[TargetModule], *, rank: int, alpha: float, dropout: float, seed: int) -> Adapter:
        """Replaces each layer by one that adds the adapter's change.

        At the start the change is zero; the initial numbers are a function of (seed, target's name) alone.
        """

    def components(self) -> dict[str, slice]:
        """Which part of `flat` belongs to which component, in order."""

    def parameters(self, component: str) -> list[nn.Parameter]:
        """The shaped views of one component, for optimizers that look at shapes."""

    def gradient(self) -> Tensor:
        """(P,) float32: what backward has added up since `clear_gradient`. The buffer itself, not a copy."""

    def clear_gradient(self) -> None:
        """Sets the gradient buffer to zero; the views stay."""

    def tensors(self) -> dict[str, Tensor]:
        """Everything trained, float32 on the CPU, by name: copies."""

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The way back. Asserts that names and shapes are exactly its own."""

    def set_training(self, training: bool) -> None:
        """Dropout on or off."""

    def set_multiplier(self, multiplier: float) -> None:
        """Scales the whole change: 1 in training, 0 shows the base model."""
