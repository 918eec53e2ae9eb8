"""The change of a layer's weight that a module of a LoRA file makes, by the formula of its kind.

The formulas are those of LyCORIS' and ComfyUI's readers; `adapters` has the same for kinds that are trained here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lorasmith.lora_files.keys import DORA, DOWN, MID, UP
from lorasmith.lora_files.modules import LOW_RANK, Module
from lorasmith.lora_tools.arrays import Array

Arrays = Mapping[str, Array]  # by suffix

QUIET = np.errstate(over="ignore", invalid="ignore", divide="ignore")
"""Numbers of other people's files may be infinite or none: the callers check the results."""

_OF_ONE_TENSOR = {"vector": "diff", "bias": "diff_b"}
MERGEABLE = LOW_RANK | {"loha", "lokr", "full", "norm"}
"""Kinds whose change can be added to a weight without the model running."""


@QUIET
def change(module: Module, arrays: Arrays) -> Array:
    """The change of the weight, scaled by alpha, of a module of MERGEABLE without DoRA; 1x1 kernels may lack."""
    kind = module.kind
    if kind in ("full", "norm"):
        return arrays["diff" if kind == "full" else "w_norm"]
    if kind == "loha":
        delta = _hada(arrays, 1) * _hada(arrays, 2)
    elif kind == "lokr":
        delta = _kronecker(arrays)
    else:
        delta = _product(arrays[UP], arrays[DOWN], arrays.get(MID))
    factor = module.scale * float(arrays["scalar"].reshape(-1)[0] if "scalar" in arrays else 1)
    scaled: Array = np.float32(factor) * delta
    return scaled


class Rows(NamedTuple):
    """The rows of a module that are those of a layer, where a file has several layers as one."""

    start: int
    stop: int
    of: int

    @property
    def are_all(self) -> bool:
        return self.stop - self.start == self.of


ALL_ROWS = Rows(0, 0, 0)


@QUIET
def changed(module: Module, arrays: Arrays, weight: Array, multiplier: float, rows: Rows = ALL_ROWS) -> Array:
    """The weight with `multiplier` times the change; with DoRA, of a weight whose columns or rows get new lengths.

    Raises:
        ValueError: the module is for a weight of another size.
    """
    delta = _of_rows(module, arrays, rows).reshape(weight.shape)
    if not module.has_dora:
        return weight + np.float32(multiplier) * delta
    whole = weight + delta
    magnitudes = arrays[DORA] if rows.are_all else arrays[DORA][rows.start : rows.stop]
    if magnitudes.ndim == 1 or magnitudes.shape[0] == weight.shape[0]:  # of each output
        axes = tuple(range(1, whole.ndim))
    else:
        axes = (0, *range(2, whole.ndim))
    lengths = np.sqrt(np.square(whole, dtype=np.float64).sum(axes, keepdims=True)) + np.finfo(np.float32).eps
    directed = (whole * (magnitudes.reshape(lengths.shape) / lengths)).astype(np.float32)
    result: Array = weight + np.float32(multiplier) * (directed - weight)
    return result


@QUIET
def norm(module: Module, arrays: Arrays) -> float | None:
    """The Frobenius norm of the change, without DoRA's lengths; None for kinds that depend on the model's weight."""
    kind = module.kind
    if kind in _OF_ONE_TENSOR:
        return float(np.linalg.norm(arrays[_OF_ONE_TENSOR[kind]].astype(np.float64)))
    if kind not in MERGEABLE:
        return None
    if kind in ("lora", "locon"):
        down, up = (arrays[suffix].reshape(len(arrays[suffix]), -1).astype(np.float64) for suffix in (DOWN, UP))
        square = float(np.sum((up.T @ up) * (down @ down.T)))
        return abs(module.scale) * math.sqrt(max(square, 0.0)) if not math.isnan(square) else math.nan
    return float(np.linalg.norm(change(module, arrays).astype(np.float64)))


def _of_rows(module: Module, arrays: Arrays, rows: Rows) -> Array:
    """The change of these rows. A product of two matrices is computed for them alone."""
    if rows.are_all:
        return change(module, arrays)
    own = slice(rows.start, rows.stop)
    if module.kind == "lora" and len(arrays[UP]) == rows.of:
        return change(module, {**arrays, UP: arrays[UP][own]})
    delta = change(module, arrays)
    if len(delta) != rows.of:
        raise ValueError(f"{len(delta)} rows, not {rows.of}")
    return delta[own]


def _product(up: Array, down: Array, mid: Array | None) -> Array:
    """up @ down in the shape (out, in, kernel…); with Tucker's core between them."""
    if mid is not None:
        rows, columns = up.reshape(len(up), -1), down.reshape(len(down), -1)
        tucker: Array = np.einsum("or,rs...,si->oi...", rows, mid, columns, optimize=True)
        return tucker
    return (up.reshape(len(up), -1) @ down.reshape(len(down), -1)).reshape(len(up), *down.shape[1:])


def _hada(arrays: Arrays, number: int) -> Array:
    """One of the factors that LoHa multiplies element by element."""
    first, second = arrays[f"hada_w{number}_a"], arrays[f"hada_w{number}_b"]
    core = arrays.get(f"hada_t{number}")
    if core is None:
        return first @ second
    factor: Array = np.einsum("rs...,ro,si->oi...", core, first, second, optimize=True)
    return factor


def _kronecker(arrays: Arrays) -> Array:
    """LoKr's Kronecker product; the second factor carries the kernel."""
    first = arrays["lokr_w1"] if "lokr_w1" in arrays else arrays["lokr_w1_a"] @ arrays["lokr_w1_b"]
    if "lokr_w2" in arrays:
        second = arrays["lokr_w2"]
    elif "lokr_t2" in arrays:
        a, b = arrays["lokr_w2_a"], arrays["lokr_w2_b"]
        second = np.einsum("rs...,ro,si->oi...", arrays["lokr_t2"], a, b, optimize=True)
    else:
        a, b = arrays["lokr_w2_a"], arrays["lokr_w2_b"]
        second = (a @ b.reshape(len(b), -1)).reshape(len(a), *b.shape[1:])
    product: Array = np.kron(first.reshape(*first.shape, *(1,) * (second.ndim - 2)), second)
    return product
