"""Frozen convolutions on Intel's processors with AVX-512: columns of channels, weights in the order of channels_last.

A window's row of pixels is then one run of memory: columns are made ten times faster than by torch's `unfold`, and what
is left of a convolution is a product that reads its weights once. The layers around it keep torch's usual order.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.nn.grad import conv2d_input

from lorasmith.engine.cpu_products import product, transposed_product

# With fewer channels per pixel, reading the weights no longer dominates, and oneDNN's own convolution is faster.
_CHANNELS_PER_PIXEL = 1


class ChannelsLastConv2d(nn.Module):
    """A convolution with any kernel and stride, (B, C, h, w) -> (B, O, h', w'); both in torch's usual order."""

    def __init__(self, layer: nn.Conv2d) -> None:
        """Puts the weights of `layer` itself into the order of channels_last, so that they are in memory once."""
        super().__init__()
        assert not isinstance(layer.padding, str), layer.padding
        self.weight, self.bias = layer.weight, layer.bias
        self.weight.data = self.weight.data.contiguous(memory_format=torch.channels_last)
        self.stride, self.padding, self.dilation = layer.stride, layer.padding, layer.dilation

    def forward(self, x: Tensor) -> Tensor:
        pixels = len(x) * math.prod(self._windows(side, axis) for axis, side in enumerate(x.shape[2:]))
        function = _Columns if max(self.weight.shape[:2]) >= _CHANNELS_PER_PIXEL * pixels else _Whole
        window = self.stride, self.padding, self.dilation
        result: Tensor = function.apply(x, self.weight, self.bias, *window)  # type: ignore[no-untyped-call]
        return result

    def _windows(self, side: int, axis: int) -> int:
        """The number of windows along a side, given in pixels."""
        reach = self.dilation[axis] * (self.weight.shape[2 + axis] - 1) + 1
        return (side + 2 * self.padding[axis] - reach) // self.stride[axis] + 1


Pair = tuple[int, int]
_Gradients = tuple[Tensor | None, None, None, None, None, None]


class _Whole(torch.autograd.Function):
    """oneDNN's convolution, whose results return to torch's usual order."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.input_shape, ctx.window = x.shape, (stride, padding, dilation)
        return conv2d(x, weight, bias, stride, padding, dilation).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> _Gradients:
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None, None
        (weight,) = ctx.saved_tensors
        found: Tensor = conv2d_input(ctx.input_shape, weight, gradient, *ctx.window)  # type: ignore[no-untyped-call]
        return found.contiguous(), None, None, None, None, None


class _Columns(torch.autograd.Function):
    """A product with the columns of all windows."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.input_shape, ctx.window = x.shape, (stride, padding, dilation)
        padded = _padded(x, padding)
        windows = _windows_of(padded, weight.shape[2:], stride, dilation)
        # Contiguous first: windows of a picture a pixel wide could be rows that overlap, which oneDNN refuses.
        rows, columns = windows.shape[:3], windows.contiguous().view(-1, weight[0].numel())  # (B h' w', k k C)
        result = transposed_product(_matrix(weight), columns)  # (O, B h' w')
        if bias is not None:
            result.add_(bias[:, None])
        return result.view(-1, *rows).transpose(0, 1).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> _Gradients:
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None, None
        (weight,) = ctx.saved_tensors
        stride, padding, dilation = ctx.window
        count, channels, height, width = ctx.input_shape
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, gradient.shape[1])  # (B h' w', O)
        columns = product(rows, _matrix(weight))  # (B h' w', k k C)
        kernel = weight.shape[2:]
        columns = columns.view(count, *gradient.shape[2:], *kernel, channels)
        # float32: up to nine numbers are added to each other
        total = columns.new_zeros(count, height + 2 * padding[0], width + 2 * padding[1], channels, dtype=torch.float32)
        windows = _windows_of(total, kernel, stride, dilation)
        for i in range(kernel[0]):
            for j in range(kernel[1]):
                windows[:, :, :, i, j].add_(columns[:, :, :, i, j])
        inner = total[:, padding[0] : padding[0] + height, padding[1] : padding[1] + width].permute(0, 3, 1, 2)
        found = torch.empty(ctx.input_shape, dtype=gradient.dtype).copy_(inner)
        return found, None, None, None, None, None


def _matrix(weight: Tensor) -> Tensor:
    """(O, C, k, k) in the order of channels_last as (O, k k C), without a copy."""
    return weight.permute(0, 2, 3, 1).view(len(weight), -1)


def _padded(x: Tensor, padding: Pair) -> Tensor:
    """(B, C, h, w) -> (B, h + 2 p, w + 2 p, C), zero around the picture."""
    (top, left), (height, width) = padding, x.shape[2:]
    padded = x.new_zeros(len(x), height + 2 * top, width + 2 * left, x.shape[1])
    padded[:, top : top + height, left : left + width] = x.permute(0, 2, 3, 1)
    return padded


def _windows_of(padded: Tensor, kernel: torch.Size, stride: Pair, dilation: Pair) -> Tensor:
    """(B, H, W, C) -> (B, h', w', k, k, C): all windows, which share memory."""
    count, *sides, channels = padded.shape
    picture, row, pixel, _ = padded.stride()
    number = [
        (side - step * (reach - 1) - 1) // jump + 1
        for side, reach, jump, step in zip(sides, kernel, stride, dilation, strict=True)
    ]
    strides = (picture, row * stride[0], pixel * stride[1], row * dilation[0], pixel * dilation[1], 1)
    return padded.as_strided((count, *number, *kernel, channels), strides)
