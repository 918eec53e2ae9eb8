"""LoHa (FedPara, arXiv 2108.06098): the elementwise product of two low-rank changes, of up to rank * rank."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Generator, Tensor, nn

from lorasmith.adapters.base import AdapterLayer, LayerSettings
from lorasmith.adapters.operation import Operation
from lorasmith.targets import LayerSpec

W1_A, W1_B, W2_A, W2_B = "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"
_START = {W1_A: 0.1, W1_B: 1.0, W2_B: 1.0}
"""The deviations that LyCORIS starts with; w2_a stays zero."""


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
        return _product(tensors, settings.alpha / settings.rank).reshape(weight.shape)

    def scaled(self, tensors: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
        return {**tensors, W2_A: tensors[W2_A] * factor}

    def file_alpha(self, shapes: Mapping[str, tuple[int, ...]], settings: LayerSettings) -> float:  # noqa: ARG002
        return settings.alpha

    def file_scale(self, shapes: Mapping[str, tuple[int, ...]], alpha: float | None) -> float:
        return 1.0 if alpha is None else alpha / shapes[W1_B][0]


class LohaLayer(AdapterLayer):
    """The change of the weight is made anew at each call, in float32, and rounded to the precision of the input."""

    def __init__(self, base: nn.Module, tensors: Mapping[str, nn.Parameter], settings: LayerSettings) -> None:
        super().__init__(base, settings)
        self.operation = Operation(base)
        self.tensors = nn.ParameterDict(tensors)
        self.scale = settings.alpha / settings.rank

    def changed(self, y: Tensor, x: Tensor) -> Tensor:
        dropped = {suffix: self.drop_columns(self.tensors[suffix]) for suffix in (W1_A, W2_A)}
        delta = _product({**self.tensors, **dropped}, self.multiplier * self.scale)
        return y + self.operation(x, delta.to(x.dtype))


def _product(tensors: Mapping[str, Tensor], scale: float) -> Tensor:
    return (tensors[W1_A] @ tensors[W1_B]) * ((scale * tensors[W2_A]) @ tensors[W2_B])
