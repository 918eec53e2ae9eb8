"""Checks that the tensors of a layer fit each other, so that its kind's formula can be computed of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

from lorasmith.lora_files.keys import ALPHA, DOWN, MID, UP

Shapes = Mapping[str, tuple[int, ...]]  # by suffix

MAX_NUMBERS = 2**28
"""The size of a layer's change, several times the largest of any model. Small matrices can have a gigantic product."""
MAX_RANK = 2**14


def fits(kind: str, shapes: Shapes) -> bool:
    """Whether tensors of these shapes make a layer of this kind. Kinds without a formula here fit always."""
    are_single = all(prod(shapes[suffix]) == 1 for suffix in ("scalar", ALPHA) if suffix in shapes)
    if not are_single or any(0 in shape for shape in shapes.values()):
        return False
    return kind not in _NUMBERS or 0 < _NUMBERS[kind](shapes) <= MAX_NUMBERS


def _pair(shapes: Shapes) -> int:
    """The count of numbers in the change, like all that follow; 0 where the tensors do not fit."""
    down, up = shapes[DOWN], shapes[UP]
    is_product = _is_weight(down) and _is_pointwise(up) and up[1] == down[0] <= MAX_RANK
    return up[0] * prod(down[1:]) if is_product else 0


def _tucker(shapes: Shapes) -> int:
    down, up, core = shapes[DOWN], shapes[UP], shapes[MID]
    is_product = _is_pointwise(down) and _is_pointwise(up) and _is_core(core, up[1], down[0])
    return up[0] * down[1] * prod(core[2:]) if is_product else 0


def _hada(shapes: Shapes) -> int:
    layers = {_factor(*(shapes.get(f"hada_{end}", ()) for end in (f"w{n}_a", f"w{n}_b", f"t{n}"))) for n in (1, 2)}
    return prod(layers.pop()) if len(layers) == 1 else 0


def _kronecker(shapes: Shapes) -> int:
    first, second = (
        shapes.get(f"lokr_{name}")
        or _factor(*(shapes.get(f"lokr_{end}", ()) for end in (f"{name}_a", f"{name}_b", f"t{name[1]}")))
        for name in ("w1", "w2")
    )
    return prod(first) * prod(second) if len(first) == 2 and _is_weight(second) else 0


def _full(shapes: Shapes) -> int:
    return prod(shapes["diff"]) if _is_weight(shapes["diff"]) else 0


def _norm(shapes: Shapes) -> int:
    return prod(shapes["w_norm"]) if len(shapes["w_norm"]) == 1 else 0


def _factor(first: tuple[int, ...], second: tuple[int, ...], core: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a product of two matrices, or of two around a core; (0,) where they do not fit."""
    if len(first) == 2 and core:
        is_product = len(second) == 2 and _is_core(core, first[0], second[0])
        return (first[1], second[1], *core[2:]) if is_product else (0,)
    is_product = len(first) == 2 and _is_weight(second) and first[1] == second[0] <= MAX_RANK
    return (first[0], *second[1:]) if is_product else (0,)


def _is_core(shape: tuple[int, ...], rows: int, columns: int) -> bool:
    return len(shape) == 4 and shape[:2] == (rows, columns)


def _is_weight(shape: tuple[int, ...]) -> bool:
    return len(shape) in (2, 4)


def _is_pointwise(shape: tuple[int, ...]) -> bool:
    return _is_weight(shape) and all(side == 1 for side in shape[2:])


_NUMBERS: dict[str, Callable[[Shapes], int]] = {
    "lora": _pair,
    "locon": _pair,
    "tucker": _tucker,
    "loha": _hada,
    "lokr": _kronecker,
    "full": _full,
    "norm": _norm,
}
