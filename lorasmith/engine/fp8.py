"""Keeps the weights of frozen layers in 8 bits: half the memory of 16 bits, for an error of about 3 % of each weight.

The arithmetic stays that of the run's precision: a layer's weights are made anew where they are needed, in the forward
pass and again in the backward pass, so that no more than a layer of them exists at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear
from torch.nn.grad import conv2d_input

STORED = torch.float8_e4m3fn
LARGEST = torch.finfo(STORED).max  # 448
_LEAST = torch.finfo(torch.float32).tiny


def store_in_fp8(model: nn.Module) -> int:
    """Replaces the frozen convolutions and linear layers inside `model`, and returns how many. Called once, after
    everything that is trained has been attached."""
    count = 0
    for owner in list(model.modules()):
        for name, layer in list(owner.named_children()):
            if type(layer) in (nn.Linear, nn.Conv2d) and _is_storable(layer):
                setattr(owner, name, Fp8Layer(layer))  # type: ignore[arg-type]
                count += 1
    return count


class Fp8Layer(nn.Module):
    """A linear layer or convolution whose weight is a float8 number for each weight and a factor for each output.

    With a factor for each output the largest weight of a row is the largest float8, so that as few weights as possible
    fall below the smallest: those of diffusion models are mostly under 0.05.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        weight = layer.weight.detach()
        rows = weight.to(torch.float32).flatten(1)
        factors = rows.abs().amax(1, keepdim=True).clamp_(min=_LEAST) / LARGEST
        self.register_buffer("stored", (rows / factors).to(STORED))  # (outputs, inputs * height * width)
        self.register_buffer("factors", factors)  # (outputs, 1)
        self.bias = layer.bias
        self.shape, self.dtype = weight.shape, weight.dtype
        self.window: tuple[Any, ...] = ()
        if isinstance(layer, nn.Conv2d):
            self.window = (layer.stride, layer.padding, layer.dilation, layer.groups)

    @property
    def weight(self) -> Tensor:
        """The weight in the run's precision, made anew at each call."""
        rows = self.get_buffer("stored").to(torch.float32) * self.get_buffer("factors")
        return rows.to(self.dtype).view(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _Frozen.apply(x, self)  # type: ignore[no-untyped-call]
        return result


class _Frozen(torch.autograd.Function):
    """The product with a frozen weight, which is not kept for the gradient of the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Fp8Layer) -> Tensor:
        ctx.layer, ctx.input_shape = layer, x.shape
        if layer.window:
            return conv2d(x, layer.weight, layer.bias, *layer.window)
        return linear(x, layer.weight, layer.bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None
        layer: Fp8Layer = ctx.layer
        if layer.window:
            of_input: Tensor = conv2d_input(ctx.input_shape, layer.weight, gradient, *layer.window)  # type: ignore[no-untyped-call]
            return of_input, None
        return torch.matmul(gradient, layer.weight), None


def _is_storable(layer: nn.Module) -> bool:
    if any(parameter.requires_grad for parameter in layer.parameters()):
        return False
    return not isinstance(layer, nn.Conv2d) or (layer.padding_mode == "zeros" and not isinstance(layer.padding, str))
