"""The pairs of a file under another table of names, which may hold as one what the file has apart, and the reverse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np

from lorasmith.errors import ModelError
from lorasmith.exporting.name_table import NameTable, Row
from lorasmith.lora_files.keys import DOWN, UP
from lorasmith.lora_tools.changes import QUIET
from lorasmith.lora_tools.layers import Layer
from lorasmith.lora_tools.low_rank import Product


class Regrouped(NamedTuple):
    """A module of the new table."""

    name: str
    made_of: Layer  # of the file: it has its tensors where `product` is None; else the first that is in it
    product: Product | None  # with a scale of 1


class _Part(NamedTuple):
    """The smallest part of a module that any table names."""

    target: str
    outputs: int  # in the published model


def regrouped(
    found: Sequence[Layer], stream: BinaryIO, table: NameTable, pieces: Mapping[str, Sequence[str]]
) -> Iterator[Regrouped]:
    """The modules of the table that the file's layers make, one at a time.

    Args:
        pieces: as `NameTable.pieces`.

    Raises:
        ModelError: `tool_incomplete`, rows that cannot be divided between the layers that they are for.
    """
    parts_of = {layer.name: _parts(layer.rows, pieces) for layer in found}
    of_target = {part.target: layer for layer in found for part in parts_of[layer.name]}
    for name, rows in table.modules.items():
        wanted = _parts(rows, pieces)
        sources = {layer.name: layer for part in wanted if (layer := of_target.get(part.target)) is not None}
        if not sources:
            continue
        first = next(iter(sources.values()))
        if parts_of[first.name] == wanted:
            yield Regrouped(name, first, None)
            continue
        products: dict[str, Product] = {}
        for layer in sources.values():
            products |= _taken_apart(layer, parts_of[layer.name], stream)
        yield Regrouped(name, first, _joined(products, wanted))


def _parts(rows: Sequence[Row], pieces: Mapping[str, Sequence[str]]) -> list[_Part]:
    parts = []
    for row in rows:
        names = pieces.get(row.target) or (row.target,)
        parts += [_Part(name, row.layer.outputs // len(names)) for name in names]
    return parts


@QUIET
def _taken_apart(layer: Layer, parts: Sequence[_Part], stream: BinaryIO) -> dict[str, Product]:
    """The change of each part. Those of a block-diagonal module have a share of its ranks each, others all ranks."""
    arrays = layer.arrays(stream)
    up, down = arrays[UP] * np.float32(layer.module.scale), arrays[DOWN]
    published = sum(part.outputs for part in parts)
    sizes = [part.outputs * len(up) // published for part in parts]
    if sum(sizes) != len(up):
        raise ModelError("tool_incomplete", path=stream.name, name=layer.module.name)
    rows = [slice(end - size, end) for size, end in zip(sizes, np.cumsum(sizes).tolist(), strict=True)]
    width = len(down) // len(parts)
    shares = [slice(width * number, width * (number + 1)) for number in range(len(parts))]
    rest = up.copy()
    for own, share in zip(rows, shares, strict=True):
        rest[own, share] = 0
    is_diagonal = width * len(parts) == len(down) and not rest.any()
    ranks = shares if is_diagonal else [slice(None)] * len(parts)
    return {
        part.target: Product(up[own, rank], down[rank], ()) for part, own, rank in zip(parts, rows, ranks, strict=True)
    }


def _joined(products: Mapping[str, Product], parts: Sequence[_Part]) -> Product:
    """The change of a module: block-diagonal, with zeros for parts that the file does not change; those with the same
    second matrix share it."""
    first = next(part for part in parts if part.target in products)
    unit = len(products[first.target].up) / first.outputs  # a miniature is smaller than the published model
    downs = [products[part.target].down for part in parts if part.target in products]
    if len(downs) == len(parts) and all(np.array_equal(down, downs[0]) for down in downs):
        return Product(np.concatenate([products[part.target].up for part in parts]), downs[0], ())
    ups = [
        products[part.target].up if part.target in products else np.zeros((round(part.outputs * unit), 0), np.float32)
        for part in parts
    ]
    up = np.zeros((sum(map(len, ups)), sum(map(len, downs))), np.float32)
    row, rank = 0, 0
    for own in ups:
        up[row : row + len(own), rank : rank + own.shape[1]] = own
        row, rank = row + len(own), rank + own.shape[1]
    return Product(up, np.concatenate(downs), ())
