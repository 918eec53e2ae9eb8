"""A check before the first step that this process repeats itself: the kinds of products in a step give the same bits
for equal operands at other addresses in memory.

Passing is no proof, since a library may vary on other shapes. Failing is a proof that a run continued here may end with
other bytes than a run that was never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, group_norm, layer_norm, scaled_dot_product_attention

from lorasmith.engine.cpu import speed_up_frozen

# Bytes from the start of a page. torch places tensors at multiples of 64, which differ from process to process.
_OFFSETS = (0, 64, 192, 2112)
_ROWS, _CHANNELS, _RANK, _HEADS = 192, 256, 4, 4  # enough weights that the layer gets its fast form
_PAGE = 4096

Product = Callable[..., tuple[Tensor, ...]]


def _matrix_product(x: Tensor, w: Tensor, low: Tensor) -> tuple[Tensor, ...]:
    """The products of a LoRA's pair: full size, with a low-rank operand, and summed over all rows."""
    low_rank = x @ low.t()
    return x @ w.t(), low_rank, low_rank.t() @ x, torch.addmm(x, low_rank, low)


def _batched_product(x: Tensor, w: Tensor, low: Tensor) -> tuple[Tensor, ...]:
    batch = x.view(_HEADS, -1, _CHANNELS)
    low_rank = torch.matmul(batch, low.t())
    return torch.bmm(low_rank.transpose(1, 2), batch).sum(0), torch.matmul(w, batch.transpose(1, 2))


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
    """`differing_products` on a device whose addresses are known; None on others (MPS)."""
    return differing_products(device, precision) if device.type in ("cpu", "cuda") else None


def differing_products(
    device: torch.device, precision: torch.dtype, products: Mapping[str, Product] = PRODUCTS
) -> tuple[str, ...]:
    """The names of the products whose bits depend on the address of their operands; () if all repeat.

    Computes each at every offset of _OFFSETS, with the threads and the MKL mode of this process.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = ((_ROWS, _CHANNELS), (_CHANNELS, _CHANNELS), (_RANK, _CHANNELS))
    numbers = [torch.randn(shape, generator=generator).to(precision) for shape in shapes]
    differing = []
    for name, product in products.items():
        results = (product(*(_placed(operand, device, offset) for operand in numbers)) for offset in _OFFSETS)
        first, *others = (tuple(part.cpu() for part in result) for result in results)
        if not all(_same_bits(first, other) for other in others):
            differing.append(name)
    return tuple(differing)


def _placed(numbers: Tensor, device: torch.device, offset: int) -> Tensor:
    """A copy whose first byte lies `offset` bytes after the start of a page."""
    size = numbers.numel() * numbers.element_size()
    memory = torch.empty(size + 2 * _PAGE, dtype=torch.uint8, device=device)
    start = -memory.data_ptr() % _PAGE + offset
    placed = memory[start : start + size].view(numbers.dtype).view(numbers.shape)
    return placed.copy_(numbers)


def _same_bits(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> bool:
    pairs = zip(left, right, strict=True)
    return all(torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8)) for a, b in pairs)
