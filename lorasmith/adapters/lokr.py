"""LoKr (LyCORIS, arXiv 2309.14859): the Kronecker product of two small matrices, the larger often of low rank."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Generator, Tensor, nn

from lorasmith.adapters.base import AdapterLayer, LayerSettings
from lorasmith.adapters.operation import Operation
from lorasmith.targets import LayerSpec

W1, W1_A, W1_B = "lokr_w1", "lokr_w1_a", "lokr_w1_b"
W2, W2_A, W2_B = "lokr_w2", "lokr_w2_a", "lokr_w2_b"


class Lokr:
    """The kind `lokr`, an AdapterKind: kron(w1, w2), times alpha / rank where one of them is a product of low rank.

    With outputs = a * b and inputs = c * d, w1 is (a, c) and w2 is (b, d), with the kernel of a convolution. Each is
    one matrix, or a product `w1_a @ w1_b` of low rank. Where both are whole, readers ignore alpha: the scale is 1.
    """

    name = "lokr"
    suffixes = (W1, W1_A, W1_B, W2, W2_A, W2_B)
    row_suffixes: frozenset[str] = frozenset()
    float32_suffixes: frozenset[str] = frozenset()
    network_module = "lycoris.kohya"

    def __init__(self, factor: int = -1, *, decompose_both: bool = False, full_matrix: bool = False) -> None:
        """
        Args:
            factor: the most rows and columns of w1; -1 splits every layer into factors as equal as possible.
            decompose_both: w1 is of low rank too, where that makes it smaller.
            full_matrix: neither is of low rank; otherwise w2 is whole where the rank is at least half its size.
        """
        self.factor, self.decompose_both, self.full_matrix = factor, decompose_both, full_matrix

    @property
    def network_args(self) -> Mapping[str, str]:
        """The arguments that LyCORIS takes for the same matrices."""
        arguments = {"algo": "lokr", "factor": str(self.factor)}
        if self.decompose_both:
            arguments["decompose_both"] = "True"
        if self.full_matrix:
            arguments["full_matrix"] = "True"
        return arguments

    def shapes(self, layer: LayerSpec, settings: LayerSettings) -> dict[str, tuple[int, ...]]:
        (a, b), (c, d) = factors(layer.outputs, self.factor), factors(layer.inputs, self.factor)
        rank, window = settings.rank, math.prod(layer.kernel)
        is_low = {W1: self.decompose_both and rank < max(a, c) / 2, W2: rank < max(b, d) / 2}
        shapes: dict[str, tuple[int, ...]] = {W1: (a, c), W2: (b, d, *layer.kernel)}
        if is_low[W1] and not self.full_matrix:
            shapes = {W1_A: (a, rank), W1_B: (rank, c), W2: shapes[W2]}
        if is_low[W2] and not self.full_matrix:
            del shapes[W2]
            shapes |= {W2_A: (b, rank), W2_B: (rank, d * window)}
        return shapes

    def layer_of(self, shapes: Mapping[str, tuple[int, ...]], kernel: tuple[int, ...]) -> tuple[LayerSpec, int]:
        (a, c), rank = _size(shapes, W1)
        (b, d), rank_2 = _size(shapes, W2)
        if W2_B in shapes:
            d //= math.prod(kernel)
        layer = LayerSpec(a * b, c * d, kernel)
        smallest = math.ceil(max(b, d, *([a, c] if self.decompose_both else [])) / 2)  # for whole matrices
        return layer, rank or rank_2 or smallest

    def init(self, base: nn.Module, tensors: Mapping[str, Tensor], generator: Generator) -> None:  # noqa: ARG002
        """As LyCORIS: w2 or w2_b stays zero, the others are uniform in ±1/sqrt(columns)."""
        for suffix, tensor in tensors.items():
            if suffix not in (W2, W2_B):
                bound = 1 / math.sqrt(tensor.shape[1])
                tensor.copy_(torch.empty(tensor.shape).uniform_(-bound, bound, generator=generator))

    def layer(self, base: nn.Module, tensors: Mapping[str, nn.Parameter], settings: LayerSettings) -> AdapterLayer:
        return LokrLayer(base, tensors, settings)

    def delta(self, weight: Tensor, tensors: Mapping[str, Tensor], settings: LayerSettings) -> Tensor:
        w1, w2 = _whole(tensors, W1), _whole(tensors, W2)
        return torch.kron(_scale(tensors, settings) * w1, w2).reshape(weight.shape)

    def norm(self, tensors: Mapping[str, Tensor], settings: LayerSettings) -> Tensor:
        """Without the product itself: its norm is the product of the norms."""
        first, second = (torch.linalg.vector_norm(_whole(tensors, suffix)) for suffix in (W1, W2))
        norm: Tensor = _scale(tensors, settings) * first * second
        return norm

    def scaled(self, tensors: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
        last = W2 if W2 in tensors else W2_B
        return {**tensors, last: tensors[last] * factor}

    def file_alpha(self, shapes: Mapping[str, tuple[int, ...]], settings: LayerSettings) -> float:
        return float(settings.rank) if W1 in shapes and W2 in shapes else settings.alpha

    def file_scale(self, shapes: Mapping[str, tuple[int, ...]], alpha: float | None) -> float:
        rank = next((shapes[suffix][0] for suffix in (W1_B, W2_B) if suffix in shapes), None)
        return 1.0 if alpha is None or rank is None else alpha / rank


class LokrLayer(AdapterLayer):
    """The change of the output, without the Kronecker product: inputs are c groups of d, outputs a groups of b.

    Each last product is added to the base's output as it is made, which spares tensors of its size.
    """

    def __init__(self, base: nn.Module, tensors: Mapping[str, nn.Parameter], settings: LayerSettings) -> None:
        super().__init__(base, settings)
        self.operation = Operation(base)
        self.tensors = nn.ParameterDict(tensors)
        self.scale = _scale(tensors, settings)

    def changed(self, y: Tensor, x: Tensor) -> Tensor:
        w1 = (self.multiplier * self.scale * _whole(self.tensors, W1)).to(x.dtype)
        add = self._add_to_picture if x.ndim == 4 else self._add_to_rows
        return add(y, x, w1).view(y.shape)

    def _add_to_rows(self, y: Tensor, x: Tensor, w1: Tensor) -> Tensor:
        a, c = w1.shape
        groups = x.reshape(-1, c, x.shape[-1] // c)  # (rows, c, d)
        if W2 in self.tensors:
            inner = self.operation(groups, self.tensors[W2].to(x.dtype))  # (rows, c, b)
            return torch.baddbmm(y.reshape(len(groups), a, -1), w1.expand(len(groups), a, c), inner)
        inner = self.operation(groups, self.tensors[W2_B].to(x.dtype))  # (rows, c, rank)
        w2_a = self.tensors[W2_A].to(x.dtype)
        return torch.addmm(y.reshape(-1, len(w2_a)), torch.matmul(w1, inner).flatten(0, 1), w2_a.t())

    def _add_to_picture(self, y: Tensor, x: Tensor, w1: Tensor) -> Tensor:
        (a, c), pictures = w1.shape, len(x)
        groups = x.reshape(pictures * c, -1, *x.shape[2:])  # (B c, d, h, w)
        inner = self.operation(groups, self.tensors[W2 if W2 in self.tensors else W2_B].to(x.dtype))
        inner, w1 = inner.reshape(pictures, c, -1), w1.expand(pictures, a, c)  # (B, c, b or rank * h' * w')
        if W2 in self.tensors:
            return torch.baddbmm(y.reshape(pictures, a, -1), w1, inner)
        w2_a = self.tensors[W2_A].to(x.dtype).expand(pictures * a, -1, -1)
        low_rank = torch.bmm(w1, inner).reshape(pictures * a, w2_a.shape[2], -1)  # (B a, rank, h' w')
        return torch.baddbmm(y.reshape(pictures * a, w2_a.shape[1], -1), w2_a, low_rank)


def factors(size: int, most: int) -> tuple[int, int]:
    """The two factors of `size` that LyCORIS takes, the smaller first: `most` and the rest where `most` divides `size`;
    otherwise those of the smallest sum whose first is at most `most`, any where that is -1."""
    if most > 0 and size % most == 0:
        return min(most, size // most), max(most, size // most)
    limit = size if most < 0 else most
    first = max(part for part in range(1, math.isqrt(size) + 1) if size % part == 0 and part <= limit)
    return first, size // first


def _size(shapes: Mapping[str, tuple[int, ...]], whole: str) -> tuple[tuple[int, int], int]:
    """Rows and columns of a matrix, and its rank if it is of low rank, else 0."""
    if whole in shapes:
        return (shapes[whole][0], shapes[whole][1]), 0
    if f"{whole}_a" not in shapes and f"{whole}_b" not in shapes:
        raise KeyError(whole)
    return (shapes[f"{whole}_a"][0], shapes[f"{whole}_b"][1]), shapes[f"{whole}_b"][0]


def _scale(tensors: Mapping[str, Tensor], settings: LayerSettings) -> float:
    return 1.0 if W1 in tensors and W2 in tensors else settings.alpha / settings.rank


def _whole(tensors: Mapping[str, Tensor] | nn.ParameterDict, suffix: str) -> Tensor:
    """The matrix w1 or w2, a convolution's flattened."""
    if suffix in tensors:
        return tensors[suffix].flatten(1)
    return tensors[f"{suffix}_a"] @ tensors[f"{suffix}_b"]
