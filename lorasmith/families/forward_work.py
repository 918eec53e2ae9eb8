"""The floating-point operations of a denoiser's forward pass, as families count them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of the weights of a model, by their names in it."""


class LayerWork(NamedTuple):
    """A linear layer or a convolution in the forward pass of a picture."""

    positions: int  # pixels or tokens that it computes
    weights: int
    sees_text: bool  # its input comes from frozen text encoders, and gets no gradient

    @property
    def flop(self) -> int:
        return 2 * self.positions * self.weights


class ForwardWork(NamedTuple):
    """The forward pass of a picture."""

    layers: Mapping[str, LayerWork]  # by name
    attention: int  # floating-point operations of the products of queries, keys and values
