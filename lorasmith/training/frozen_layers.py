"""Layers that never change, made fast on a CPU: their weights are put into oneDNN's own order once, not at every call.

Each fast layer holds two copies in place of the plain one: for the forward pass and for the gradient to its input. It
gives no gradient to its weights. Knows nothing of adapters, models or precisions beyond what a layer's tensors say.

What oneDNN computes does not depend on the size a copy was packed for, only the speed does; so the sizes below are
fixed, and nothing here has a history. For 1x1 convolutions the right order changes with the picture's size (a wrong one
is 50 times slower), so those are matrix products with weights that stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_PACKED_FOR_SIDE = 16  # pixels of latents: any realistic side leads to the same blocks
_PACKED_FOR_ROWS = 256
# Counts of channels that all sizes cut into the same blocks; others may get an order that is slow at another size.
_CHANNEL_BLOCK = 64
_NEEDED_OPERATORS = (
    "_convolution_pointwise",
    "_convolution_transpose_pointwise",
    "_linear_pointwise",
    "_reorder_convolution_weight",
    "_reorder_convolution_transpose_weight",
    "_reorder_linear_weight",
)


def speed_up_frozen(model: nn.Module) -> int:
    """Replaces the frozen convolutions and linear layers inside `model` and returns how many.

    Called once, when everything that is trained has been attached. Layers are left as they are where they hold
    anything trained, lie on another device, have a shape, precision or kind that oneDNN does not pack, or where this
    torch lacks the operators. Memory grows by one copy of what is replaced.
    """
    if not _operators_are_there():
        return 0
    count = 0
    # Owners only, and children by name: a list of the layers themselves would keep every plain weight alive to the end.
    owners = [module for module in model.modules() if next(module.children(), None) is not None]
    for owner in owners:
        for name in [name for name, _ in owner.named_children()]:
            packed = _packed(owner.get_submodule(name))
            if packed is not None:
                setattr(owner, name, packed)
                count += 1
    return count


class PackedConv2d(nn.Module):
    """A frozen convolution: (B, C, H, W) -> (B, O, h, w)."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.stride, self.dilation = list(layer.stride), list(layer.dilation)
        self.padding = [int(one) for one in layer.padding]  # not a word: see _packed
        self.reach = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        self.bias = None if layer.bias is None else layer.bias.detach()
        weight, geometry = layer.weight.detach(), (self.stride, self.dilation, 1)
        side = [_PACKED_FOR_SIDE, _PACKED_FOR_SIDE]
        ops = torch.ops.mkldnn
        self.forward_weight = ops._reorder_convolution_weight(
            weight, self.padding, *geometry, [1, layer.in_channels, *side]
        )
        # The gradient to the input is the transposed convolution with the same weights.
        self.backward_weight = ops._reorder_convolution_transpose_weight(
            weight, self.padding, [0, 0], *geometry, [1, layer.out_channels, *side]
        )

    def forward(self, x: Tensor) -> Tensor:
        return _apply(_PackedConvolution, x, self)


class PixelwiseConv2d(nn.Module):
    """A frozen 1x1 convolution: (B, C, h, w) -> (B, O, h, w)."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.bias = None if layer.bias is None else layer.bias.detach()[:, None, None]
        self.forward_weight = layer.weight.detach().flatten(1)
        self.backward_weight = self.forward_weight.t().contiguous()

    def forward(self, x: Tensor) -> Tensor:
        return _apply(_PixelwiseConvolution, x, self)


class PackedLinear(nn.Module):
    """A frozen linear layer: (..., in) -> (..., out)."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.bias = None if layer.bias is None else layer.bias.detach()
        weight, pack = layer.weight.detach(), torch.ops.mkldnn._reorder_linear_weight
        self.forward_weight = pack(weight, _PACKED_FOR_ROWS)
        self.backward_weight = pack(weight.t().contiguous(), _PACKED_FOR_ROWS)

    def forward(self, x: Tensor) -> Tensor:
        return _apply(_PackedLinear, x, self)


class _PackedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: PackedConv2d) -> Tensor:
        ctx.layer, ctx.sides = layer, x.shape[2:]
        return _convolution(x, layer)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None]:
        layer: PackedConv2d = ctx.layer
        if not ctx.needs_input_grad[0]:
            return None, None
        # Rows and columns at the far edge that the stride stepped over: they get a gradient of their own size.
        left_over = [
            side + 2 * padding - (small - 1) * stride - reach
            for side, small, padding, stride, reach in zip(
                ctx.sides, gradient.shape[2:], layer.padding, layer.stride, layer.reach, strict=True
            )
        ]
        return torch.ops.mkldnn._convolution_transpose_pointwise(
            gradient.contiguous(),
            layer.backward_weight,
            None,
            layer.padding,
            left_over,
            layer.stride,
            layer.dilation,
            1,
            "none",
            [],
            "",
        ), None


class _PixelwiseConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: PixelwiseConv2d) -> Tensor:
        ctx.layer = layer
        result = _pixelwise(x, layer.forward_weight)
        return result if layer.bias is None else result.add_(layer.bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None
        return _pixelwise(gradient, ctx.layer.backward_weight), None


class _PackedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: PackedLinear) -> Tensor:
        ctx.layer = layer
        return _product(x, layer.forward_weight, layer.bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None
        return _product(gradient, ctx.layer.backward_weight, None), None


def _apply(function: type[torch.autograd.Function], x: Tensor, layer: nn.Module) -> Tensor:
    result: Tensor = function.apply(x, layer)  # type: ignore[no-untyped-call]
    return result


def _convolution(x: Tensor, layer: PackedConv2d) -> Tensor:
    result: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x.contiguous(),
        layer.forward_weight,
        layer.bias,
        layer.padding,
        layer.stride,
        layer.dilation,
        1,
        "none",
        [],
        "",
    )
    return result


def _pixelwise(x: Tensor, weight: Tensor) -> Tensor:
    """weight (O, C) times each pixel of (B, C, h, w)."""
    # The pixels stand where a linear layer has its weights, so that no picture is turned around in memory.
    pictures = [torch.ops.mkldnn._linear_pointwise(weight, one.t(), None, "none", [], "") for one in x.flatten(2)]
    result = pictures[0] if len(pictures) == 1 else torch.cat(pictures)
    return result.view(len(x), len(weight), *x.shape[2:])


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    return result


def _packed(layer: nn.Module) -> nn.Module | None:
    """The fast form of `layer`; None where it has none."""
    # Subclasses may compute something else.
    if type(layer) is nn.Linear and _can_be_packed(layer):
        return PackedLinear(layer)
    if type(layer) is nn.Conv2d and _can_be_packed(layer):
        if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            return None
        if layer.kernel_size == layer.stride == (1, 1) and layer.padding == (0, 0):
            return PixelwiseConv2d(layer)
        return PackedConv2d(layer)
    return None


def _can_be_packed(layer: nn.Linear | nn.Conv2d) -> bool:
    weight = layer.weight
    return (
        weight.device.type == "cpu"
        and not any(one.requires_grad for one in layer.parameters())
        and all(channels % _CHANNEL_BLOCK == 0 for channels in weight.shape[:2])
        and _precision_is_supported(weight.dtype)
    )


def _precision_is_supported(precision: torch.dtype) -> bool:
    if precision == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if precision == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return precision == torch.float32


def _operators_are_there() -> bool:
    """They are not part of torch's promised interface, and some builds lack them."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return all(hasattr(torch.ops.mkldnn, name) for name in _NEEDED_OPERATORS)
