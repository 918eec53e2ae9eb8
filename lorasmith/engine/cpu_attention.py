"""Attention in bfloat16 on Intel's processors: its softmax is kept, and its gradient is made of whole products.

torch's own makes the softmax again for the gradient, in small blocks and mostly by the vector units: it takes three to
ten times as long as the products, which go to the matrix units.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

# Numbers of the softmax of a call, all heads of all pictures together. With more, they no longer stay in
# the cache, and torch's way is as fast.
MAX_SHARES = 1 << 22


def speed_up_attention(model: nn.Module) -> int:
    """Gives `attention` to the processors inside `model` that take another function, and returns how many."""
    processors = [getattr(module, "processor", None) for module in model.modules()]
    taking = [processor for processor in processors if hasattr(processor, "attend")]
    for processor in taking:
        processor.attend = attention  # type: ignore[union-attr]
    return len(taking)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, as `scaled_dot_product_attention`.

    Args:
        q: (B, heads, tokens, d).
        k: (B, heads, keys, d).
        v: as k.
    """
    count, heads, tokens, _ = q.shape
    is_large = count * heads * tokens * k.shape[2] > MAX_SHARES
    if is_large or q.dtype is not torch.bfloat16 or q.device.type != "cpu":
        return scaled_dot_product_attention(q, k, v)
    result: Tensor = _Attention.apply(q, k, v)  # type: ignore[no-untyped-call]
    return result


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.batch = q.shape[:2]
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))  # (B heads, tokens, d)
        ctx.scale = q.shape[-1] ** -0.5
        # float32: rounded to bfloat16, a score would be wrong by parts of a hundred
        scores = torch.bmm(q.float() * ctx.scale, k.float().transpose(1, 2))
        shares = torch.softmax(scores, -1).to(q.dtype)  # (B heads, tokens, keys)
        ctx.save_for_backward(q, k, v, shares)
        return _tokens_first(torch.bmm(shares, v), ctx.batch)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, shares = ctx.saved_tensors
        gradient = gradient.flatten(0, 1)
        grad_v = torch.bmm(shares.transpose(1, 2), gradient)
        grad_shares = torch.bmm(gradient, v.transpose(1, 2))
        grad_scores = torch._softmax_backward_data(grad_shares, shares, -1, shares.dtype)
        grad_q = torch.bmm(grad_scores, k).mul_(ctx.scale)
        grad_k = torch.bmm(grad_scores.transpose(1, 2), q).mul_(ctx.scale)
        found = (_tokens_first(x, ctx.batch) for x in (grad_q, grad_k, grad_v))
        return next(found), next(found), next(found)


def _tokens_first(x: Tensor, batch: torch.Size) -> Tensor:
    """(B heads, tokens, d) -> (B, heads, tokens, d), in memory tokens before heads, as the layers around it want it."""
    x = x.view(*batch, *x.shape[1:])
    return x.transpose(1, 2).contiguous().transpose(1, 2)
