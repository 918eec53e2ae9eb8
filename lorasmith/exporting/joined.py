"""Layers that this program trains as one (FLUX.2's queries, keys and values), and files that have a module for each.

`NameTable.pieces` names them. Knows no model and reads no file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from lorasmith.adapters.base import AdapterKind, by_layer
from lorasmith.exporting.name_table import NameTable

Tensors = dict[str, Tensor]  # of a layer, by suffix
Value = TypeVar("Value")


def taken_apart(layers: Mapping[str, Tensors], kind: AdapterKind, table: NameTable) -> dict[str, Tensors]:
    """The tensors of the layers that a file has: each piece computes its rows with all ranks."""

    def pieces_of(tensors: Tensors, number: int, count: int) -> Tensors:
        assert kind.row_suffixes, f"{kind.name} has no form for a part of a layer"
        return {
            suffix: tensor.chunk(count)[number].contiguous() if suffix in kind.row_suffixes else tensor.clone()
            for suffix, tensor in tensors.items()
        }

    return for_pieces(layers, table, pieces_of)


def for_pieces(
    values: Mapping[str, Value], table: NameTable, piece: Callable[[Value, int, int], Value]
) -> dict[str, Value]:
    """Values by target as values by the layers of a file. `piece`: of a value, the number of the piece, their count."""
    found: dict[str, Value] = {}
    for target, value in values.items():
        names = table.pieces.get(target, ())
        found |= {name: piece(value, number, len(names)) for number, name in enumerate(names)} or {target: value}
    return found


def put_together(
    tensors: Mapping[str, Tensor],
    kind: AdapterKind,
    table: NameTable,
    fused: Callable[[Sequence[Tensors], AdapterKind], Tensors],
) -> dict[str, Tensor]:
    """The way back, for tensors with a scale of 1. Pieces with the same ranks keep them; others get ranks of their own
    by `fused`, and a piece that the file leaves out has no change."""
    layers = by_layer(tensors, kind)
    for target, names in table.pieces.items():
        parts = [dict(layers.pop(name, {})) for name in names]
        some = next((part for part in parts if part), None)
        if some is None:
            continue
        empty = {suffix: torch.zeros_like(tensor) for suffix, tensor in some.items()}
        parts = [part or empty for part in parts]
        layers[target] = _sharing_ranks(parts, kind) or fused(parts, kind)
    return {f"{target}.{suffix}": tensor for target, layer in layers.items() for suffix, tensor in layer.items()}


def _sharing_ranks(parts: Sequence[Tensors], kind: AdapterKind) -> Tensors | None:
    """The tensors of a layer whose pieces differ in their rows alone; None where they differ in more."""
    shared = [suffix for suffix in parts[0] if suffix not in kind.row_suffixes]
    if not all(torch.equal(part[suffix], parts[0][suffix]) for part in parts for suffix in shared):
        return None
    return {
        suffix: parts[0][suffix] if suffix in shared else torch.cat([part[suffix] for part in parts])
        for suffix in parts[0]
    }
