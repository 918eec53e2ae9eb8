"""Products of matrices on a CPU, by the library that is quickest at them.

oneDNN uses all units of every processor. MKL, which torch's own products in float32 go to, is quicker on Intel's
processors where the second matrix is a weight that is read across its rows, as for the gradient of a layer's input, and
slow on others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorasmith.processor import read_processor

_uses_mkl = read_processor().is_intel


def product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., m, k) times (k, n), plus (n,)."""
    if _uses_mkl and bias is None and right.is_contiguous():
        return torch.matmul(left, right)
    return transposed_product(left, right.t(), bias)


def transposed_product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., m, k) times (n, k) transposed, plus (n,)."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(left.contiguous(), right, bias, "none", [], "")
    return result
