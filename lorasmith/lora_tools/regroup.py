"""The pairs of a file under another table of names, which may hold as one what the file has apart, and the reverse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np

from lorasmith.errors import ModelError
from lorasmith.exporting.name_table import NameTable, Row
from lorasmith.lora_files.keys import DOWN, UP
from lorasmith.lora_tools.arrays import Array
from lorasmith.lora_tools.changes import QUIET
from lorasmith.lora_tools.layers import Layer
from lorasmith.lora_tools.low_rank import Product


class Regrouped(NamedTuple):
    """A module of the new table."""

    name: str
    made_of: Layer  # of the file: it has its tensors where `product` is None; else the first that is in it
    product: Product | None  # with a scale of 1


def regrouped(found: Sequence[Layer], stream: BinaryIO, table: NameTable) -> Iterator[Regrouped]:
    """The modules of the table that the file's layers make, one at a time.

    Raises:
        ModelError: `tool_incomplete`, rows that cannot be divided between the layers that they are for.
    """
    of_target = {row.target: layer for layer in found for row in layer.rows}
    for name, rows in table.modules.items():
        sources = {layer.name: layer for row in rows if (layer := of_target.get(row.target)) is not None}
        if not sources:
            continue
        first = next(iter(sources.values()))
        if [row.target for row in first.rows] == [row.target for row in rows]:
            yield Regrouped(name, first, None)
            continue
        parts: dict[str, Product] = {}
        for layer in sources.values():
            parts |= _parts(layer, stream)
        yield Regrouped(name, first, _joined(parts, rows))


@QUIET
def _parts(layer: Layer, stream: BinaryIO) -> dict[str, Product]:
    """The change of each target. Those of a block-diagonal module have a share of its ranks each, others all ranks."""
    arrays = layer.arrays(stream)
    up, down = arrays[UP] * np.float32(layer.module.scale), arrays[DOWN]
    published = sum(row.layer.outputs for row in layer.rows)
    sizes = [row.layer.outputs * len(up) // published for row in layer.rows]
    if sum(sizes) != len(up):
        raise ModelError("tool_incomplete", path=stream.name, name=layer.module.name)
    rows = [slice(end - size, end) for size, end in zip(sizes, np.cumsum(sizes).tolist(), strict=True)]
    width = len(down) // len(rows)
    shares = [slice(width * number, width * (number + 1)) for number in range(len(rows))]
    rest = up.copy()
    for own, share in zip(rows, shares, strict=True):
        rest[own, share] = 0
    is_diagonal = width * len(rows) == len(down) and not rest.any()
    ranks = shares if is_diagonal else [slice(None)] * len(rows)
    return {
        row.target: Product(up[own, rank], down[rank], ())
        for row, own, rank in zip(layer.rows, rows, ranks, strict=True)
    }


def _joined(parts: Mapping[str, Product], rows: Sequence[Row]) -> Product:
    """The change of a module: block-diagonal, with zeros for targets that the file does not change."""
    first = next(row for row in rows if row.target in parts)
    unit = len(parts[first.target].up) / first.layer.outputs  # a miniature is smaller than the published model
    ups = [parts[row.target].up if row.target in parts else _zeros(row, unit) for row in rows]
    up = np.zeros((sum(map(len, ups)), sum(part.shape[1] for part in ups)), np.float32)
    row, rank = 0, 0
    for part in ups:
        up[row : row + len(part), rank : rank + part.shape[1]] = part
        row, rank = row + len(part), rank + part.shape[1]
    return Product(up, np.concatenate([parts[row.target].down for row in rows if row.target in parts]), ())


def _zeros(row: Row, unit: float) -> Array:
    return np.zeros((round(row.layer.outputs * unit), 0), np.float32)
