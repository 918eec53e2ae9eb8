"""LoHa (FedPara, arXiv 2108.06098): the elementwise product of two low-rank changes, of up to rank * rank."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn

from lorasmith.adapters.base import AdapterLayer, LayerSettings
from lorasmith.adapters.operation import Operation
from lorasmith.targets import LayerSpec

W1_A, W1_B, W2_A, W2_B = "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"
_START = {W1_A: 0.1, W1_B: 1.0, W2_B: 1.0}
"""The deviations that LyCORIS starts with; w2_a stays zero."""

_BLOCK_NUMBERS = 1 << 17  # 512 KiB: the best of 128, 512 and 2048 KiB (`python -m benchmarks.adapter_layers`)
_ALIGNED_ROWS = 16


class Loha:
    """The kind `loha`, an AdapterKind: alpha / rank * (w1_a @ w1_b) * (w2_a @ w2_b).

    A convolution's matrices have a column for each number of its window, as LyCORIS writes them without `use_tucker`.
    """

    name = "loha"
    suffixes = (W1_A, W1_B, W2_A, W2_B)
    row_suffixes = frozenset({W1_A, W2_A})
    float32_suffixes: frozenset[str] = frozenset()
    network_module = "lycoris.kohya"
    network_args: Mapping[str, str] = {"algo": "loha"}

    def shapes(self, layer: LayerSpec, settings: LayerSettings) -> dict[str, tuple[int, ...]]:
        rows, columns = (layer.outputs, settings.rank), (settings.rank, layer.inputs * math.prod(layer.kernel))
        return {W1_A: rows, W1_B: columns, W2_A: rows, W2_B: columns}

    def layer_of(self, shapes: Mapping[str, tuple[int, ...]], kernel: tuple[int, ...]) -> tuple[LayerSpec, int]:
        rank, columns = shapes[W1_B][:2]
        return LayerSpec(shapes[W1_A][0], columns // math.prod(kernel), kernel), rank

    def init(self, base: nn.Module, tensors: Mapping[str, Tensor], generator: Generator) -> None:  # noqa: ARG002
        for suffix, deviation in _START.items():
            start = torch.empty(tensors[suffix].shape).normal_(0, deviation, generator=generator)
            tensors[suffix].copy_(start)

    def layer(self, base: nn.Module, tensors: Mapping[str, nn.Parameter], settings: LayerSettings) -> AdapterLayer:
        return LohaLayer(base, tensors, settings)

    def delta(self, weight: Tensor, tensors: Mapping[str, Tensor], settings: LayerSettings) -> Tensor:
        return add_product(None, tensors, settings.alpha / settings.rank).reshape(weight.shape)

    def norm(self, tensors: Mapping[str, Tensor], settings: LayerSettings) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(add_product(None, tensors, settings.alpha / settings.rank))
        return norm

    def scaled(self, tensors: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
        return {**tensors, W2_A: tensors[W2_A] * factor}

    def file_alpha(self, shapes: Mapping[str, tuple[int, ...]], settings: LayerSettings) -> float:  # noqa: ARG002
        return settings.alpha

    def file_scale(self, shapes: Mapping[str, tuple[int, ...]], alpha: float | None) -> float:
        return 1.0 if alpha is None else alpha / shapes[W1_B][0]


class LohaLayer(AdapterLayer):
    """The change of the weight is made anew at each call, in float32."""

    base: nn.Linear | nn.Conv2d

    def __init__(self, base: nn.Module, tensors: Mapping[str, nn.Parameter], settings: LayerSettings) -> None:
        super().__init__(base, settings)
        self.operation = Operation(base)
        self.tensors = nn.ParameterDict(tensors)
        self.scale = settings.alpha / settings.rank

    def applied(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32 or not self.is_whole:
            return super().applied(x)
        # One product in place of two; in lower precisions the sum would lose small changes.
        return self.operation(x, self._add_product(self.base.weight, self.scale), self.base.bias)

    def changed(self, y: Tensor, x: Tensor) -> Tensor:
        delta = self._add_product(None, self.multiplier * self.scale)
        return self.operation.add_to(y, x, delta.to(x.dtype))

    def _add_product(self, weight: Tensor | None, scale: float) -> Tensor:
        dropped = {suffix: self.drop_columns(self.tensors[suffix]) for suffix in (W1_A, W2_A)}
        return add_product(weight, {**self.tensors, **dropped}, scale)


def add_product(weight: Tensor | None, tensors: Mapping[str, Tensor], scale: float) -> Tensor:
    """The weight of a layer, or 0, plus scale * (w1_a @ w1_b) * (w2_a @ w2_b), as a matrix."""
    matrices = (tensors[W1_A], tensors[W1_B], tensors[W2_A], tensors[W2_B])
    result: Tensor = _AddProduct.apply(weight, *matrices, scale)  # type: ignore[no-untyped-call]
    return result


class _AddProduct(torch.autograd.Function):
    """Keeps the four matrices alone: the two products, of the weight's size, are made again for the gradient.

    On a CPU they are made a few rows at a time, which stay in its cache.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor | None, w1_a: Tensor, w1_b: Tensor, w2_a: Tensor, w2_b: Tensor, scale: float
    ) -> Tensor:
        ctx.save_for_backward(w1_a, w1_b, w2_a, w2_b)
        ctx.scale = scale
        w2_a = scale * w2_a
        result = w1_a.new_empty(len(w1_a), w1_b.shape[1])
        for rows in _blocks(result):
            part, second = torch.mm(w1_a[rows], w1_b, out=result[rows]), w2_a[rows] @ w2_b
            if weight is None:
                part.mul_(second)
            else:
                torch.addcmul(weight.flatten(1)[rows], part, second, out=part)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor, Tensor, Tensor, None]:
        w1_a, w1_b, w2_a, w2_b = ctx.saved_tensors
        w2_a = ctx.scale * w2_a
        grad_1_a, grad_2_a = torch.empty_like(w1_a), torch.empty_like(w2_a)
        grad_1_b, grad_2_b = torch.zeros_like(w1_b), torch.zeros_like(w2_b)
        for rows in _blocks(gradient):
            of_product = (w2_a[rows] @ w2_b).mul_(gradient[rows])
            torch.mm(of_product, w1_b.t(), out=grad_1_a[rows])
            grad_1_b.addmm_(w1_a[rows].t(), of_product)
            torch.mm(w1_a[rows], w1_b, out=of_product).mul_(gradient[rows])
            torch.mm(of_product, w2_b.t(), out=grad_2_a[rows])
            grad_2_b.addmm_(w2_a[rows].t(), of_product)
        return None, grad_1_a, grad_1_b, grad_2_a.mul_(ctx.scale), grad_2_b, None


def _blocks(matrix: Tensor) -> Iterator[slice]:
    """Slices of rows: blocks that fit into a CPU's cache beside each other, all at once elsewhere."""
    most = len(matrix)
    if matrix.device.type == "cpu":
        most = max(_ALIGNED_ROWS, _BLOCK_NUMBERS // matrix.shape[1] // _ALIGNED_ROWS * _ALIGNED_ROWS)
    return (slice(start, start + most) for start in range(0, len(matrix), most))
