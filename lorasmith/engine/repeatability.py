"""A check before the first step that this process repeats itself: the kinds of products that a step makes, computed
again on equal numbers that lie elsewhere in memory, give the same bits.

Passing is no proof, since a library may vary on other shapes; failing is: a run that is continued here may end with
other bytes than one that was never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, group_norm, layer_norm, scaled_dot_product_attention

from lorasmith.engine.frozen_layers import speed_up_frozen

# Bytes from a page's begin. torch puts every tensor of its own at a multiple of 64; which one differs by process.
_OFFSETS = (0, 64, 192, 2112)
_ROWS, _CHANNELS, _RANK, _HEADS = 192, 256, 4, 4  # as many weights as a layer needs to be made fast
_PAGE = 4096

Product = Callable[..., tuple[Tensor, ...]]


def _matrix_product(x: Tensor, w: Tensor, low: Tensor) -> tuple[Tensor, ...]:
    """The three orders of operands of a LoRA's pair: (rows, in) by (in, out), thin ones, and sums over all rows."""
    thin = x @ low.t()
    return x @ w.t(), thin, thin.t() @ x, torch.addmm(x, thin, low)


def _batched_product(x: Tensor, w: Tensor, low: Tensor) -> tuple[Tensor, ...]:
    batch = x.view(_HEADS, -1, _CHANNELS)
    thin = torch.matmul(batch, low.t())
    return torch.bmm(thin.transpose(1, 2), batch).sum(0), torch.matmul(w, batch.transpose(1, 2))


def _frozen_layer(x: Tensor, w: Tensor, _low: Tensor) -> tuple[Tensor, ...]:
    layer = nn.Linear(_CHANNELS, _CHANNELS, bias=False, device=w.device, dtype=w.dtype).requires_grad_(False)
    layer.weight = nn.Parameter(w, requires_grad=False)
    model = nn.Sequential(layer)
    speed_up_frozen(model)
    y = model(x.requires_grad_())
    return y.detach(), *torch.autograd.grad(y.sum(), x)


def _convolution(x: Tensor, w: Tensor, _low: Tensor) -> tuple[Tensor, ...]:
    picture = x.view(2, 24, 32, 32).requires_grad_()
    y = conv2d(picture, w.view(-1)[: 48 * 24 * 9].view(48, 24, 3, 3), padding=1)
    return y.detach(), *torch.autograd.grad(y.sum(), picture)


def _attention(x: Tensor, w: Tensor, _low: Tensor) -> tuple[Tensor, ...]:
    q = x.view(1, _ROWS, _HEADS, -1).transpose(1, 2).requires_grad_()
    k = w.view(1, _CHANNELS, _HEADS, -1).transpose(1, 2)
    y = scaled_dot_product_attention(q, k, k)
    return y.detach(), *torch.autograd.grad(y.sum(), q)


def _norms(x: Tensor, _w: Tensor, _low: Tensor) -> tuple[Tensor, ...]:
    y = x.detach().requires_grad_()
    total = layer_norm(y, y.shape[-1:]).square().sum() + group_norm(y.view(2, 32, -1), 8).square().sum()
    return torch.linalg.vector_norm(x), total.detach(), *torch.autograd.grad(total, y)


PRODUCTS: Mapping[str, Product] = {
    "matrix product": _matrix_product,
    "batched product": _batched_product,
    "frozen layer": _frozen_layer,
    "convolution": _convolution,
    "attention": _attention,
    "norm": _norms,
}


def self_check(device: torch.device, precision: torch.dtype) -> tuple[str, ...] | None:
    """`differing_products` where addresses in memory are known, None where they are not (MPS)."""
    return differing_products(device, precision) if device.type in ("cpu", "cuda") else None


def differing_products(
    device: torch.device, precision: torch.dtype, products: Mapping[str, Product] = PRODUCTS
) -> tuple[str, ...]:
    """Names of the products whose bits depend on where their operands lie, () where all repeat.

    Each is computed at every offset of _OFFSETS, with the threads and in the mode that this process has.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = ((_ROWS, _CHANNELS), (_CHANNELS, _CHANNELS), (_RANK, _CHANNELS))
    numbers = [torch.randn(shape, generator=generator).to(precision) for shape in shapes]
    differing = []
    for name, product in products.items():
        results = (product(*(_placed(one, device, offset) for one in numbers)) for offset in _OFFSETS)
        first, *others = (tuple(part.cpu() for part in result) for result in results)
        if not all(_same_bits(first, other) for other in others):
            differing.append(name)
    return tuple(differing)


def _placed(numbers: Tensor, device: torch.device, offset: int) -> Tensor:
    """A copy whose first byte lies `offset` bytes from a page's begin."""
    size = numbers.numel() * numbers.element_size()
    memory = torch.empty(size + 2 * _PAGE, dtype=torch.uint8, device=device)
    begin = -memory.data_ptr() % _PAGE + offset
    placed = memory[begin : begin + size].view(numbers.dtype).view(numbers.shape)
    return placed.copy_(numbers)


def _same_bits(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> bool:
    pairs = zip(left, right, strict=True)
    return all(torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8)) for a, b in pairs)
