"""Products of matrices on a CPU, by the library that is quickest at them.

oneDNN uses all units of every processor. MKL, which torch's own products in float32 go to, is quicker on Intel's
processors with AVX-512 where the second matrix is a weight that is read across its rows, as for the gradient of a
layer's input, and slow on others. Of 8-bit integers oneDNN's sums are exact on some processors only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from lorasmith.processor import read_processor

_processor = read_processor()
# What differs was measured on these alone.
_is_wide_intel = _processor.is_intel and "avx512f" in _processor.flags
# Up to this many rows of float32, oneDNN is quicker at the product of the weight with the rows than the other way.
_FEW_ROWS = 64
_MANY_WEIGHTS = 1 << 20
_EXACT_COLUMNS = 1024  # most products of 8-bit integers whose sum is exact in float32, in any order

IntegerProduct = Callable[[Tensor, Tensor], Tensor]


def product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., m, k) times (k, n), plus (n,)."""
    if _is_wide_intel and bias is None and right.dtype is torch.float32 and right.is_contiguous():
        return torch.matmul(left, right)
    return transposed_product(left, right.t(), bias)


def transposed_product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., m, k) times (n, k) transposed, plus (n,)."""
    if _is_quicker_turned(left, right):
        return _turned_product(left, right, bias)
    result: Tensor = torch.ops.mkldnn._linear_pointwise(left.contiguous(), right, bias, "none", [], "")
    return result


def _is_quicker_turned(left: Tensor, right: Tensor) -> bool:
    if not _is_wide_intel or left.dtype is not torch.float32:  # bfloat16 would be rounded before the bias is added
        return False
    return left.numel() <= _FEW_ROWS * left.shape[-1] and right.numel() >= _MANY_WEIGHTS


def _turned_product(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    rows = left.reshape(-1, left.shape[-1])
    turned: Tensor = torch.ops.mkldnn._linear_pointwise(right, rows, None, "none", [], "")  # (n, m)
    if bias is not None:
        turned.add_(bias[:, None])
    return turned.t().contiguous().view(*left.shape[:-1], -1)


def integer_product_on(device: torch.device) -> IntegerProduct:
    """Returns the function that multiplies 8-bit integers on a device: (m, k) times (n, k) transposed, in 32 bits."""
    return _integer_product if device.type != "cpu" or _adds_integers_exactly() else _integer_product_in_float32


@cache
def _adds_integers_exactly() -> bool:
    """Whether oneDNN adds products of integers exactly here.

    Without VNNI (AVX2 alone, and the first processors with AVX-512) it limits the sum of two products to 16 bits.
    """
    largest = torch.full((32, 64), 127, dtype=torch.int8)
    return bool((_integer_product(largest, largest) == 64 * 127**2).all())


def _integer_product(left: Tensor, right: Tensor) -> Tensor:
    return torch._int_mm(left, right.t())


def _integer_product_in_float32(left: Tensor, right: Tensor) -> Tensor:
    result = torch.zeros(len(left), len(right), dtype=torch.int32, device=left.device)
    for start in range(0, left.shape[1], _EXACT_COLUMNS):
        columns = slice(start, start + _EXACT_COLUMNS)
        some, others = left[:, columns].to(torch.float32), right[:, columns].to(torch.float32)
        result += torch.matmul(some, others.t()).to(torch.int32)
    return result
