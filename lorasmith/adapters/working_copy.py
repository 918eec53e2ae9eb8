"""The adapter's numbers in the precision of the products, for the time of a pass through the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_CPU_PIECE = 1 << 20
"""Numbers added at a time on a CPU, where adding another type first makes a copy in the type of the sum."""


class WorkingCopy:
    """One rounded copy of the whole buffer in place of a cast in every layer, and one buffer for the gradients.

    Layers whose products add their gradients themselves use it while a pass is open, and only then: outside, in
    evaluations, they round their own numbers. Where the precision is the buffer's own, nothing is copied. No tensor of
    it ever moves.
    """

    def __init__(self, flat: Tensor, gradient: Tensor, precision: torch.dtype) -> None:
        """
        Args:
            flat: (P,), what is trained.
            gradient: (P,), to which a pass adds.
        """
        self._flat = flat
        self.is_rounded = flat.dtype != precision
        self.numbers = torch.empty_like(flat, dtype=precision) if self.is_rounded else flat
        self.gradient = torch.empty_like(self.numbers) if self.is_rounded else gradient
        piece = _CPU_PIECE if flat.device.type == "cpu" else max(1, flat.numel())
        self._pieces = list(zip(torch.split(gradient, piece), torch.split(self.gradient, piece), strict=True))
        self.is_open = False

    @property
    def precision(self) -> torch.dtype:
        """The data type of the products."""
        return self.numbers.dtype

    @contextmanager
    def opened(self) -> Iterator[None]:
        """A forward and a backward pass inside of the `with` block; the gradient is complete after it."""
        if self.is_rounded:
            self.numbers.copy_(self._flat)
            self.gradient.zero_()
        self.is_open = True
        try:
            yield
        finally:
            self.is_open = False
        if self.is_rounded:
            for total, rounded in self._pieces:
                total.add_(rounded)

    def view_of(self, part: Tensor) -> Tensor:
        """The numbers that are copies of `part`, a view of the buffer."""
        return _same_place(self.numbers, part)

    def gradient_of(self, part: Tensor) -> Tensor:
        """The place where the gradient of `part`, a view of the buffer, is added."""
        return _same_place(self.gradient, part)


def _same_place(flat: Tensor, part: Tensor) -> Tensor:
    return flat.detach().as_strided(part.shape, part.stride(), part.storage_offset())
