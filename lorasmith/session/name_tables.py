"""The tables of layer names: texts of the families, parsed for exports and for --init-from."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from lorasmith.config import AdapterConfig
from lorasmith.errors import ConfigError
from lorasmith.exporting.formats import parse_native, table_in
from lorasmith.exporting.name_table import NameTable, parse_table
from lorasmith.families import layer_names, native_names
from lorasmith.runs.naming import FileNames

_STACKABLE = ("lora", "loha")
"""Kinds that have a form for layers that a file holds as one."""


@cache
def name_table(family: str) -> NameTable:
    """The table of a family, a key of `families.FAMILIES`, read once."""
    return parse_table(family, layer_names(family))


@cache
def other_table(family: str, form: str) -> NameTable | None:
    """The table of a family's files in the form of --export-format; None where it is their own."""
    own = name_table(family)
    table = table_in(own, form, parse_native(native_names(family)))
    return None if table is own else table


def check_export_format(form: str, adapter: AdapterConfig, family: str) -> None:
    """Refuses kinds of adapters that a second file in this form cannot hold.

    Raises:
        ConfigError: `export_format_kind`.
    """
    if not form or not family or adapter.kind == "lora":
        return
    table = other_table(family, form)
    has_fused = table is not None and any(len(rows) > 1 for rows in table.modules.values())
    if form == "diffusers" or (has_fused and adapter.kind not in _STACKABLE):
        raise ConfigError("export_format_kind", format=form, adapter=adapter.kind)


def other_file(names: FileNames, family: str) -> Path | None:
    """The second file that a run writes at its end; None: it writes none."""
    form = names.export.format
    return names.other if form and family and other_table(family, form) else None
