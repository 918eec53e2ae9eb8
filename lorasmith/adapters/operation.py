"""The operation of a frozen layer, which a change of its weight has too."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear


class Operation:
    """The product of an input and a weight: a linear layer's, or a convolution's with the kernel, stride, padding and
    dilation of the layer. Inputs and outputs may be fewer or more than the layer's."""

    def __init__(self, base: nn.Module) -> None:
        """Reads what `base` does; it may be replaced by a faster form of itself later."""
        self.kernel: tuple[int, ...] = tuple(base.get_parameter("weight").shape[2:])
        self.window: tuple[tuple[int, ...], ...] = ()
        if isinstance(base, nn.Conv2d):
            assert base.groups == 1 and base.padding_mode == "zeros" and not isinstance(base.padding, str), base
            self.window = (base.stride, base.padding, base.dilation)
        else:
            assert isinstance(base, nn.Linear), type(base).__name__

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """`weight`: (outputs, inputs), or a convolution's, (outputs, inputs * height * width), with its own dimensions
        or flattened."""
        if not self.window:
            return linear(x, weight, bias)
        stride, padding, dilation = self.window
        return conv2d(x, weight.reshape(len(weight), -1, *self.kernel), bias, stride, padding, dilation)

    def add_to(self, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """`y` plus the product, which a linear layer adds as it makes it."""
        if self.window:
            return y + self(x, weight)
        return torch.addmm(y.reshape(-1, y.shape[-1]), x.reshape(-1, x.shape[-1]), weight.t()).view_as(y)
