"""The changes of a file's layers under another table of names, which may hold as one what the file has apart, and the
reverse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import numpy as np

from lorasmith.errors import ModelError
from lorasmith.exporting.name_table import NameTable, Row
from lorasmith.lora_files.keys import DOWN, UP
from lorasmith.lora_tools.arrays import Array
from lorasmith.lora_tools.changes import QUIET, change
from lorasmith.lora_tools.layers import Layer
from lorasmith.lora_tools.low_rank import Product


class Part(NamedTuple):
    """The smallest part of a module that any table names."""

    target: str
    outputs: int  # in the published model


@dataclass(frozen=True, slots=True)
class Regrouped:
    """A module of the new table, and the layers of the file that it is made of."""

    name: str
    parts: Sequence[Part]
    sources: Mapping[str, tuple[Layer, Sequence[Part]]]  # by the name of the layer

    @property
    def first(self) -> Layer:
        return next(iter(self.sources.values()))[0]

    @property
    def is_unchanged(self) -> bool:
        """Whether the module is a layer of the file."""
        return self.parts == next(iter(self.sources.values()))[1]

    @property
    def are_pairs(self) -> bool:
        return all(layer.is_pair for layer, _ in self.sources.values())

    @QUIET
    def product(self, stream: BinaryIO) -> Product:
        """The change as a product with a scale of 1, of layers that are pairs.

        Raises:
            ModelError: `tool_incomplete`, rows that cannot be divided between the parts that they are for.
        """
        if self.is_unchanged:
            arrays, scale = self.first.arrays(stream), np.float32(self.first.module.scale)
            up, down = arrays[UP], arrays[DOWN]
            return Product(scale * up.reshape(len(up), -1), down.reshape(len(down), -1), down.shape[2:])
        products: dict[str, Product] = {}
        for layer, own in self.sources.values():
            products |= _taken_apart(layer, own, stream)
        return _joined(products, self.parts)

    @QUIET
    def change(self, stream: BinaryIO) -> Array:
        """The change of layers of any kind but DoRA, (outputs, inputs, kernel…).

        Raises:
            ModelError: as `product`.
        """
        if self.is_unchanged:
            delta = change(self.first.module, self.first.arrays(stream))
            pointwise = all(side == 1 for side in delta.shape[2:])
            return delta.reshape(*delta.shape[:2], *self.first.kernel) if pointwise else delta
        found: dict[str, Array] = {}
        for layer, own in self.sources.values():
            delta = change(layer.module, layer.arrays(stream))
            rows = _rows(layer, own, len(delta), stream)
            found |= {part.target: delta[place] for part, place in zip(own, rows, strict=True)}
        first = next(part for part in self.parts if part.target in found)
        unit = len(found[first.target]) / first.outputs
        like = found[first.target].shape[1:]
        untrained = {part.target: np.zeros((round(part.outputs * unit), *like), np.float32) for part in self.parts}
        return np.concatenate([{**untrained, **found}[part.target] for part in self.parts])


def regrouped(found: Sequence[Layer], table: NameTable, pieces: Mapping[str, Sequence[str]]) -> Iterator[Regrouped]:
    """The modules of the table that the file's layers make.

    Args:
        pieces: as `NameTable.pieces`.
    """
    parts = {layer.name: parts_of(layer.rows, pieces) for layer in found}
    of_target = {part.target: layer for layer in found for part in parts[layer.name]}
    for name, rows in table.modules.items():
        wanted = parts_of(rows, pieces)
        layers = [layer for part in wanted if (layer := of_target.get(part.target)) is not None]
        if layers:
            yield Regrouped(name, wanted, {layer.name: (layer, parts[layer.name]) for layer in layers})


def parts_of(rows: Sequence[Row], pieces: Mapping[str, Sequence[str]]) -> list[Part]:
    """The parts of a module, in order."""
    parts = []
    for row in rows:
        names = pieces.get(row.target) or (row.target,)
        parts += [Part(name, row.layer.outputs // len(names)) for name in names]
    return parts


def _rows(layer: Layer, parts: Sequence[Part], outputs: int, stream: BinaryIO) -> list[slice]:
    """The rows of each part of a layer, by the number of its outputs."""
    published = sum(part.outputs for part in parts)
    sizes = [part.outputs * outputs // published for part in parts]
    if sum(sizes) != outputs:
        raise ModelError("tool_incomplete", path=stream.name, name=layer.module.name)
    return [slice(end - size, end) for size, end in zip(sizes, np.cumsum(sizes).tolist(), strict=True)]


def _taken_apart(layer: Layer, parts: Sequence[Part], stream: BinaryIO) -> dict[str, Product]:
    """The change of each part. Those of a block-diagonal module have a share of its ranks each, others all ranks."""
    arrays = layer.arrays(stream)
    up, down = arrays[UP] * np.float32(layer.module.scale), arrays[DOWN]
    rows = _rows(layer, parts, len(up), stream)
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


def _joined(products: Mapping[str, Product], parts: Sequence[Part]) -> Product:
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
