"""The tables of layer names: texts of the families, parsed for exports and for --init-from."""

from __future__ import annotations

from functools import cache

from lorasmith.exporting.name_table import NameTable, parse_table
from lorasmith.families import layer_names


@cache
def name_table(family: str) -> NameTable:
    """The table of a family, a key of `families.FAMILIES`, read once."""
    return parse_table(family, layer_names(family))
