"""Products with low-rank matrices, added in place of a sum of their own: autograd functions for CPUs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def add_low_rank(y: Tensor, x: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """Returns y + scale * up(down(x)), without a tensor of y's size for the second part alone.

    Args:
        y: (..., out), or (B, out, h, w): four dimensions are those of a picture.
        x: (..., in), or (B, in, h, w); `down` and `up` are rounded to its precision.
        down: (rank, in).
        up: (out, rank).
    """
    result: Tensor = _AddLowRank.apply(y, x, down, up, scale)  # type: ignore[no-untyped-call]
    return result


def add_product(y: Tensor, low_rank: Tensor, up: Tensor, scale: float) -> Tensor:
    """Returns y + scale * up(low_rank) of pictures, without a tensor of y's size for the second part alone.

    Args:
        y: (B, out, h, w).
        low_rank: (B, rank, h, w); `up` is rounded to its precision.
        up: (out, rank).
    """
    result: Tensor = _AddProduct.apply(y, low_rank, up, scale)  # type: ignore[no-untyped-call]
    return result


class _AddLowRank(torch.autograd.Function):
    """Keeps x and the low-rank product for the gradients."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
        down, up = down.to(x.dtype), up.to(x.dtype)
        ctx.scale = scale
        if x.ndim == 4:
            pixels = x.flatten(2)  # (B, in, hw)
            low_rank = torch.matmul(down, pixels)  # (B, rank, hw)
            ctx.save_for_backward(pixels, low_rank, down, up)
            return torch.baddbmm(y.flatten(2), up.expand(len(x), *up.shape), low_rank, alpha=scale).view_as(y)
        rows = x.reshape(-1, x.shape[-1])
        low_rank = rows @ down.t()  # (rows, rank)
        ctx.save_for_backward(rows, low_rank, down, up)
        return torch.addmm(y.reshape(-1, y.shape[-1]), low_rank, up.t(), alpha=scale).view_as(y)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, None]:
        x, low_rank, down, up = ctx.saved_tensors
        _, wants_x, wants_down, wants_up, _ = ctx.needs_input_grad
        grad_x = grad_down = grad_up = None
        if gradient.ndim == 4:
            grad_output = gradient.flatten(2)  # (B, out, hw)
            grad_low_rank = torch.matmul(up.t(), grad_output).mul_(ctx.scale)
            if wants_down:
                grad_down = torch.bmm(grad_low_rank, x.transpose(1, 2)).sum(0)
            if wants_up:
                grad_up = torch.bmm(grad_output, low_rank.transpose(1, 2)).sum(0).mul_(ctx.scale)
            if wants_x:
                grad_x = torch.matmul(down.t(), grad_low_rank).view(len(x), -1, *gradient.shape[2:])
        else:
            grad_output = gradient.reshape(-1, gradient.shape[-1])
            grad_low_rank = (grad_output @ up).mul_(ctx.scale)  # (rows, rank)
            if wants_down:
                grad_down = grad_low_rank.t() @ x
            if wants_up:
                grad_up = (grad_output.t() @ low_rank).mul_(ctx.scale)
            if wants_x:
                grad_x = (grad_low_rank @ down).view(*gradient.shape[:-1], -1)
        return gradient, grad_x, grad_down, grad_up, None


class _AddProduct(torch.autograd.Function):
    """Keeps the low-rank product for the gradient of `up`."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, low_rank: Tensor, up: Tensor, scale: float) -> Tensor:
        up, pixels = up.to(low_rank.dtype), low_rank.flatten(2)  # (B, rank, hw)
        ctx.scale = scale
        ctx.save_for_backward(pixels, up)
        return torch.baddbmm(y.flatten(2), up.expand(len(pixels), *up.shape), pixels, alpha=scale).view_as(y)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        pixels, up = ctx.saved_tensors
        _, wants_low_rank, wants_up, _ = ctx.needs_input_grad
        grad_low_rank = grad_up = None
        grad_output = gradient.flatten(2)  # (B, out, hw)
        if wants_low_rank:
            product = torch.matmul(up.t(), grad_output).mul_(ctx.scale)
            grad_low_rank = product.view(*pixels.shape[:2], *gradient.shape[2:])
        if wants_up:
            grad_up = torch.bmm(grad_output, pixels.transpose(1, 2)).sum(0).mul_(ctx.scale)
        return gradient, grad_low_rank, grad_up, None
