"""Products of matrices on a CPU, by the library that is quickest at them.

oneDNN uses all units of every processor. MKL, which torch's own products in float32 go to, is quicker on Intel's
processors where the second matrix is a weight that is read across its rows, as for the gradient of a layer's input, and
slow on others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorasmith.processor import read_processor

_is_intel = read_processor().is_intel
# Up to this many rows of float32, oneDNN is quicker at the product of the weight with the rows than the other way.
_FEW_ROWS = 64
_MANY_WEIGHTS = 1 << 20


def product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., m, k) times (k, n), plus (n,)."""
    if _is_intel and bias is None and right.dtype is torch.float32 and right.is_contiguous():
        return torch.matmul(left, right)
    return transposed_product(left, right.t(), bias)


def transposed_product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., m, k) times (n, k) transposed, plus (n,)."""
    if _is_quicker_turned(left, right):
        return _turned_product(left, right, bias)
    result: Tensor = torch.ops.mkldnn._linear_pointwise(left.contiguous(), right, bias, "none", [], "")
    return result


def _is_quicker_turned(left: Tensor, right: Tensor) -> bool:
    if not _is_intel or left.dtype is not torch.float32:  # bfloat16 would be rounded before the bias is added
        return False
    return left.numel() <= _FEW_ROWS * left.shape[-1] and right.numel() >= _MANY_WEIGHTS


def _turned_product(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    rows = left.reshape(-1, left.shape[-1])
    turned: Tensor = torch.ops.mkldnn._linear_pointwise(right, rows, None, "none", [], "")  # (n, m)
    if bias is not None:
        turned.add_(bias[:, None])
    return turned.t().contiguous().view(*left.shape[:-1], -1)
