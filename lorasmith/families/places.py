"""Places of tensors in a file: whole, a part of the rows of another, or in another order. Needs no torch and reads no
file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod

from lorasmith.families.headers import TensorInfo

Renaming = Callable[[str, Iterable[str]], dict[str, str]]
"""(component, names in a file) -> canonical name: name in the file, without tensors of other components."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a tensor in a file."""

    name: str  # of the file's tensor
    part: int = 0  # which of `parts` equal parts of its rows; they follow each other in the file
    parts: int = 1
    span: int = 1  # the number of parts that are taken, from `part` on
    rows: int = 0  # of the tensor, whose numbers the file has in one row or in others; 0: as in the file
    is_matrix: bool = False  # a linear layer's weight, which the file may have as a 1x1 convolution
    is_transposed: bool = False  # the file has rows for columns
    swaps_halves: bool = False  # the file has the second half of the rows first

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the tensor, from that of the file's.

        Raises:
            ValueError: rows that cannot be divided so, or no matrix to turn.
        """
        if self.is_transposed:
            if len(stored) != 2:
                raise ValueError(f"{self.name}: {stored}")
            return stored[::-1]
        if self.is_matrix and len(stored) > 2:
            stored = (stored[0], prod(stored[1:]))
        if self.parts > 1:
            if not stored or stored[0] % self.parts:
                raise ValueError(f"{self.name}: {stored}")
            stored = (stored[0] // self.parts * self.span, *stored[1:])
        if self.rows:
            if prod(stored) % self.rows:
                raise ValueError(f"{self.name}: {stored}")
            stored = (self.rows, prod(stored) // self.rows)
        if self.swaps_halves and (not stored or stored[0] % 2):
            raise ValueError(f"{self.name}: {stored}")
        return stored

    def info(self, stored: TensorInfo) -> TensorInfo:
        """Type, stored shape and bytes of this part of the file's tensor.

        Raises:
            ValueError: as `shape`.
        """
        shape = self.shape(stored.shape)
        size = (stored.end - stored.start) // self.parts
        start, shown = stored.start + self.part * size, stored.shape if self.is_transposed else shape
        return replace(stored, shape=shown, start=start, end=start + size * self.span)


Finder = Callable[[str, Iterable[str]], dict[str, Place]]
"""(component, names in a file) -> canonical name: its place, without tensors of other components."""


def shapes_at(places: Mapping[str, Place], stored: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes by canonical name, from those of the file's tensors.

    Raises:
        ValueError: as `Place.shape`.
    """
    return {name: place.shape(stored[place.name]) for name, place in places.items()}


def whole(renaming: Renaming) -> Finder:
    """The finder of files that hold each tensor as it is, under another name."""

    def find(component: str, names: Iterable[str]) -> dict[str, Place]:
        return {ours: Place(theirs) for ours, theirs in renaming(component, names).items()}

    return find
