"""A frozen layer and its LoRA as one autograd function, in as few operators as there are products.

The functions read a working copy of the pair and add to its gradients themselves: no cast, no sum and no tensor for a
part alone. `x` is (..., in), or pixels (B, in, hw).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from lorasmith.adapters.working_copy import WorkingCopy


@runtime_checkable
class FrozenProduct(Protocol):
    """A frozen layer whose products can be made without autograd: a linear layer's of rows (n, in), a pixelwise
    convolution's of pixels (B, in, hw)."""

    def product(self, x: Tensor) -> Tensor:
        """The layer's output, in memory of its own."""

    def input_gradient(self, gradient: Tensor) -> Tensor:
        """The gradient of the input, in memory of its own."""


class _PlainProduct:
    """That of a layer of `torch.nn`, whose weight is read at each call: it may lie somewhere else by then."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        self.layer = layer
        self.is_linear = isinstance(layer, nn.Linear)

    def product(self, x: Tensor) -> Tensor:
        weight, bias = self.layer.weight, self.layer.bias
        if self.is_linear:
            return linear(x, weight, bias)
        weight = _each(weight.view(1, len(weight), -1), x)
        return torch.bmm(weight, x) if bias is None else torch.baddbmm(bias[:, None], weight, x)

    def input_gradient(self, gradient: Tensor) -> Tensor:
        weight = self.layer.weight
        if self.is_linear:
            return gradient @ weight
        return torch.bmm(_each(weight.view(1, len(weight), -1).transpose(1, 2), gradient), gradient)


def frozen_product(layer: nn.Module) -> FrozenProduct | None:
    """The products of a frozen layer; None where it has none, as a layer whose weight is stored in 8 bits."""
    if isinstance(layer, FrozenProduct):
        return layer
    if type(layer) not in (nn.Linear, nn.Conv2d) or any(parameter.requires_grad for parameter in layer.parameters()):
        return None
    return _PlainProduct(layer)  # type: ignore[arg-type]


class Pair(NamedTuple):
    """A pair of low-rank matrices in the working copy, both ways round, and where their gradients are added."""

    copy: WorkingCopy
    down: Tensor  # (rank, in); for pixels (1, rank, in), as all four
    up: Tensor  # (out, rank)
    down_t: Tensor
    up_t: Tensor
    down_gradient: Tensor  # (rank, in)
    up_gradient: Tensor  # (out, rank)
    scale: float

    @staticmethod
    def of(copy: WorkingCopy, down: Tensor, up: Tensor, scale: float, *, is_for_pixels: bool) -> Pair:
        """The pair whose numbers are these views of the adapter's buffer."""
        own_down, own_up = copy.view_of(down), copy.view_of(up)
        if is_for_pixels:
            own_down, own_up = own_down[None], own_up[None]
        gradients = copy.gradient_of(down), copy.gradient_of(up)
        return Pair(copy, own_down, own_up, own_down.mT, own_up.mT, *gradients, scale)


def changed(x: Tensor, base: FrozenProduct, pair: Pair, trained: Tensor) -> Tensor:
    """Returns base(x) + scale * up(down(x)).

    Args:
        trained: any tensor that gradients are asked for, so that there is a backward pass; it gets none.
    """
    function = _ChangedPixels if x.ndim == 4 else _ChangedRows
    result: Tensor = function.apply(x, base, pair, trained)  # type: ignore[no-untyped-call]
    return result


def added(y: Tensor, x: Tensor, pair: Pair, trained: Tensor) -> Tensor:
    """Returns y + scale * up(down(x)), for a frozen layer of any kind, or an input that is not its own."""
    function = _AddedPixels if x.ndim == 4 else _AddedRows
    result: Tensor = function.apply(y, x, pair, trained)  # type: ignore[no-untyped-call]
    return result


class _ChangedRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, base: FrozenProduct, pair: Pair, trained: Tensor) -> Tensor:  # noqa: ARG004
        rows = x.reshape(-1, x.shape[-1])
        low_rank = rows @ pair.down_t  # (n, rank)
        ctx.save_for_backward(rows, low_rank)
        ctx.base, ctx.pair, ctx.shape = base, pair, x.shape
        y = base.product(rows).addmm_(low_rank, pair.up_t, alpha=pair.scale)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        rows, low_rank = ctx.saved_tensors
        output_gradient = gradient.reshape(len(rows), -1)
        of_low_rank = _add_gradients_of_rows(ctx.pair, rows, low_rank, output_gradient)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        of_input = ctx.base.input_gradient(output_gradient)
        return of_input.addmm_(of_low_rank, ctx.pair.down, alpha=ctx.pair.scale).view(ctx.shape), None, None, None


class _AddedRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, pair: Pair, trained: Tensor) -> Tensor:  # noqa: ARG004
        rows = x.reshape(-1, x.shape[-1])
        low_rank = rows @ pair.down_t
        ctx.save_for_backward(rows, low_rank)
        ctx.pair, ctx.shape = pair, x.shape
        return torch.addmm(y.reshape(len(rows), -1), low_rank, pair.up_t, alpha=pair.scale).view(y.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        rows, low_rank = ctx.saved_tensors
        of_low_rank = _add_gradients_of_rows(ctx.pair, rows, low_rank, gradient.reshape(len(rows), -1))
        if not ctx.needs_input_grad[1]:
            return gradient, None, None, None
        return gradient, (of_low_rank @ ctx.pair.down).mul_(ctx.pair.scale).view(ctx.shape), None, None


def _add_gradients_of_rows(pair: Pair, rows: Tensor, low_rank: Tensor, output_gradient: Tensor) -> Tensor:
    """Adds the gradients of the pair; returns that of `low_rank`, without the scale."""
    assert pair.copy.is_open, "a backward pass outside of the pass that its gradients belong to"
    of_low_rank = output_gradient @ pair.up  # (n, rank)
    pair.down_gradient.addmm_(of_low_rank.t(), rows, alpha=pair.scale)
    pair.up_gradient.addmm_(output_gradient.t(), low_rank, alpha=pair.scale)
    return of_low_rank


class _ChangedPixels(torch.autograd.Function):
    """Four dimensions are those of pictures: (B, in, h, w)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: FrozenProduct, pair: Pair, trained: Tensor) -> Tensor:  # noqa: ARG004
        pixels = x.flatten(2)
        low_rank = torch.bmm(_each(pair.down, pixels), pixels)  # (B, rank, hw)
        ctx.save_for_backward(pixels, low_rank)
        ctx.base, ctx.pair, ctx.shape = base, pair, x.shape
        y = base.product(pixels).baddbmm_(_each(pair.up, pixels), low_rank, alpha=pair.scale)
        return y.view(len(x), -1, *x.shape[2:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        pixels, low_rank = ctx.saved_tensors
        output_gradient = gradient.flatten(2)
        of_low_rank = _add_gradients_of_pixels(ctx.pair, pixels, low_rank, output_gradient)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        of_input, down_t = ctx.base.input_gradient(output_gradient), _each(ctx.pair.down_t, pixels)
        return of_input.baddbmm_(down_t, of_low_rank, alpha=ctx.pair.scale).view(ctx.shape), None, None, None


class _AddedPixels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, pair: Pair, trained: Tensor) -> Tensor:  # noqa: ARG004
        pixels = x.flatten(2)
        low_rank = torch.bmm(_each(pair.down, pixels), pixels)
        ctx.save_for_backward(pixels, low_rank)
        ctx.pair, ctx.shape = pair, x.shape
        return torch.baddbmm(y.flatten(2), _each(pair.up, pixels), low_rank, alpha=pair.scale).view(y.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        pixels, low_rank = ctx.saved_tensors
        of_low_rank = _add_gradients_of_pixels(ctx.pair, pixels, low_rank, gradient.flatten(2))
        if not ctx.needs_input_grad[1]:
            return gradient, None, None, None
        of_input = torch.bmm(_each(ctx.pair.down_t, pixels), of_low_rank).mul_(ctx.pair.scale)
        return gradient, of_input.view(ctx.shape), None, None


def _add_gradients_of_pixels(pair: Pair, pixels: Tensor, low_rank: Tensor, output_gradient: Tensor) -> Tensor:
    """As `_add_gradients_of_rows`, summed over the pictures."""
    assert pair.copy.is_open, "a backward pass outside of the pass that its gradients belong to"
    of_low_rank = torch.bmm(_each(pair.up_t, pixels), output_gradient)  # (B, rank, hw)
    pair.down_gradient.addbmm_(of_low_rank, pixels.transpose(1, 2), alpha=pair.scale)
    pair.up_gradient.addbmm_(output_gradient, low_rank.transpose(1, 2), alpha=pair.scale)
    return of_low_rank


def _each(matrix: Tensor, pictures: Tensor) -> Tensor:
    """The same matrix, (1, m, n), for each picture."""
    return matrix if len(pictures) == 1 else matrix.expand(len(pictures), -1, -1)
