"""Changes of a weight as products of two matrices, and the best such product of a smaller rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lorasmith.errors import InputError
from lorasmith.exporting.name_table import FileForm
from lorasmith.lora_files.keys import ALPHA, DOWN, UP
from lorasmith.lora_tools.arrays import Array
from lorasmith.lora_tools.leading import Matrix, leading
from lorasmith.lora_tools.writing import Stored


class Product(NamedTuple):
    """A change `up @ down`, whose scale is 1."""

    up: Array  # (outputs, rank)
    down: Array  # (rank, inputs * kernel)
    kernel: tuple[int, ...]  # (height, width) of a convolution; () of a linear layer

    @property
    def rank(self) -> int:
        return int(self.up.shape[1])


@dataclass(frozen=True, slots=True)
class Cut:
    """The number of singular values that are kept: the fewest that every condition allows, and at least one."""

    rank: int | None = None  # at most
    energy: float | None = None  # share of the sum of their squares, in (0, 1]
    ratio: float | None = None  # the largest may be this many times the smallest

    def rank_of(self, values: Matrix, whole: float | None = None) -> int:
        """The number of these values, which fall, that are kept. `whole`: the sum of all squares; None: of these."""
        kept = len(values)
        squares = np.cumsum(np.square(values))
        if not squares[-1] > 0:
            return 1
        if self.energy is not None:
            kept = min(kept, 1 + int(np.searchsorted(squares, self.energy * (squares[-1] if whole is None else whole))))
        if self.ratio is not None:
            kept = min(kept, int(np.sum(values * self.ratio >= values[0])))
        return max(1, min(kept, self.rank or kept))


class Reduced(NamedTuple):
    """The best product of a rank, and the share of the squares of the singular values that it keeps."""

    product: Product
    energy: float


def reduced(product: Product, cut: Cut) -> Reduced:
    """The best product of the rank that `cut` allows, in float64: by the small matrix between two orthogonal bases."""
    left, left_core = np.linalg.qr(product.up.astype(np.float64))
    right, right_core = np.linalg.qr(product.down.T.astype(np.float64))
    inner, values, inner_t = np.linalg.svd(left_core @ right_core.T)
    return _cut(left @ inner, values, inner_t @ right.T, product.kernel, cut, whole=None)


def reduced_change(change: Array, cut: Cut) -> Reduced:
    """The same for a change that is given whole, (outputs, inputs, kernel…).

    Where a rank is asked for that is small beside the matrix, only that many singular values are computed. Otherwise
    the eigenvectors of the smaller of change @ change.T and change.T @ change are singular vectors: in float64 that is
    as exact as float32 can show, and several times as fast as a whole decomposition.
    """
    matrix = change.reshape(len(change), -1).astype(np.float64)
    whole = float(np.vdot(matrix, matrix))
    if cut.rank is not None and (found := leading(matrix, cut.rank, whole)) is not None:
        return _cut(*found, change.shape[2:], cut, whole=whole)
    is_wide = matrix.shape[0] < matrix.shape[1]
    squares, vectors = np.linalg.eigh(matrix @ matrix.T if is_wide else matrix.T @ matrix)
    values, vectors = np.sqrt(np.clip(squares[::-1], 0, None)), vectors[:, ::-1]
    count = cut.rank_of(values)
    kept = vectors[:, :count]
    # The other side is the change seen from the kept vectors: its rows carry the singular values.
    up, down = (kept, kept.T @ matrix) if is_wide else (matrix @ kept, kept.T)
    roots = np.sqrt(values[:count])
    balance = np.divide(1, roots, out=np.zeros_like(roots), where=roots > 0)
    up, down = (up * roots, down * balance[:, None]) if is_wide else (up * balance, down * roots[:, None])
    return Reduced(_product(up, down, change.shape[2:]), _energy(values, count, None))


def stored_product(product: Product, alpha: float, dtype: str) -> dict[str, Stored]:
    """The tensors of a file in which the layer has this alpha, in the shapes of sd-scripts."""
    up, down = balanced(product.up * np.float32(product.rank / alpha), product.down)
    pointwise = (1,) * len(product.kernel)
    inputs = product.down.shape[1] // int(np.prod(product.kernel, dtype=np.int64))
    return {
        UP: Stored.of(up.reshape(*up.shape, *pointwise), dtype),
        DOWN: Stored.of(down.reshape(product.rank, inputs, *product.kernel), dtype),
    }


def named_product(name: str, product: Product, alpha: float, dtype: str, form: FileForm) -> dict[str, Stored]:
    """The tensors of a module of a file of this form, by key. Without alphas the scale is in them.

    Raises:
        InputError: `tool_beyond_range`.
    """
    stored = stored_product(product, alpha if form.has_alphas else product.rank, dtype)
    check_range(stored, name)
    tensors = {f"{name}.{form.suffix(suffix)}": tensor for suffix, tensor in stored.items()}
    if form.has_alphas:
        tensors[f"{name}.{ALPHA}"] = Stored.of(np.array(alpha, np.float32), "F32")
    return tensors


def balanced(up: Array, down: Array) -> tuple[Array, Array]:
    """The same product with each column of `up` about as large as its row of `down`, so that half precision holds both.

    They are multiplied by powers of two, which rounds nothing.
    """
    columns, rows = np.abs(up).max(axis=0, initial=0), np.abs(down).max(axis=1, initial=0)
    is_movable = (columns > 0) & (rows > 0) & np.isfinite(columns) & np.isfinite(rows)
    ratios = np.divide(rows.astype(np.float64), columns, out=np.ones(len(rows)), where=is_movable)
    exponents = np.rint(np.log2(ratios) / 2).astype(np.int32)
    return np.ldexp(up, exponents), np.ldexp(down, -exponents[:, None])


def values_of(tensor: Stored) -> Matrix:
    """The numbers of a tensor of a type that the tools write, flat."""
    if tensor.dtype == "BF16":
        bits = np.frombuffer(tensor.data, "<u2").astype(np.uint32) << 16
        return bits.view(np.float32).astype(np.float64)
    return np.frombuffer(tensor.data, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[tensor.dtype]).astype(np.float64)


def check_range(stored: Mapping[str, Stored], name: str) -> None:
    """Returns where every number of a layer is in the range of its data type.

    Raises:
        InputError: `tool_beyond_range`.
    """
    for tensor in stored.values():
        if not np.isfinite(values_of(tensor)).all():
            raise InputError("tool_beyond_range", name=name, dtype=tensor.dtype)


def _cut(
    left: Matrix, values: Matrix, right: Matrix, kernel: tuple[int, ...], cut: Cut, *, whole: float | None
) -> Reduced:
    count = cut.rank_of(values, whole)
    roots = np.sqrt(values[:count])  # on both sides, so that neither leaves the range of half precision
    product = _product(left[:, :count] * roots, roots[:, None] * right[:count], kernel)
    return Reduced(product, _energy(values, count, whole))


def _product(up: Matrix, down: Matrix, kernel: tuple[int, ...]) -> Product:
    return Product(up.astype(np.float32), down.astype(np.float32), kernel)


def _energy(values: Matrix, count: int, whole: float | None) -> float:
    whole = float(np.sum(np.square(values))) if whole is None else whole
    return min(1.0, float(np.sum(np.square(values[:count]))) / whole) if whole > 0 else 1.0
