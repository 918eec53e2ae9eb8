"""The names of a family's layers in other programs' files: those of a second file, beside the family's own.

kohya: `lora_unet_` and the original model's path, with alphas. comfyui: `diffusion_model.` and that path. diffusers:
`transformer.` or `unet.` and diffusers' path. The latter two have the scale in the tensors.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from lorasmith.exporting.name_table import PEFT, SD_SCRIPTS, FileForm, NameTable, Row, table_of

_KOHYA, _COMFYUI = "lora_unet_", "diffusion_model."


class Native(NamedTuple):
    """The place of a layer in the original model."""

    path: str  # "layers.0.attention.qkv"
    part: slice | None  # the layer's rows, where the model has several as one


def parse_native(text: str) -> dict[str, Native]:
    """Target -> its place, from the tab-separated columns target, module, part; empty where the text is."""
    places = {}
    for line in csv.DictReader(text.splitlines(), delimiter="\t"):
        start, _, stop = (line["part"] or "").partition(":")
        places[line["target"]] = Native(line["module"], slice(int(start), int(stop)) if start else None)
    return places


def table_in(own: NameTable, form: str, native: Mapping[str, Native]) -> NameTable:
    """The family's layers under the names of `form`: kohya, diffusers or comfyui. `own` itself where those are its own.

    Args:
        native: by target, where the names of `own` are not those of the original model.
    """
    if form == "diffusers":
        return _as(own, [replace(row, module=_diffusers(own, row), part=None) for row in own.targets.values()], PEFT)
    if own.form is SD_SCRIPTS:  # which ComfyUI reads too
        return own
    rows = []
    for row in own.targets.values():
        path, part = native.get(row.target) or Native(row.module.removeprefix(_COMFYUI), row.part)
        name = f"{_KOHYA}{path.replace('.', '_')}" if form == "kohya" else f"{_COMFYUI}{path}"
        rows.append(replace(row, module=name, part=part))
    return _as(own, rows, SD_SCRIPTS if form == "kohya" else PEFT)


def all_names(own: NameTable, native: Mapping[str, Native]) -> NameTable:
    """The family's table for reading: its modules under the names of every form, its own first."""
    tables = [table_in(own, form, native) for form in ("diffusers", "kohya", "comfyui")]
    return replace(own, modules={name: rows for table in (own, *tables[::-1]) for name, rows in table.modules.items()})


def _diffusers(own: NameTable, row: Row) -> str:
    component, _, path = row.target.partition(".")
    denoiser = "unet" if own.form is SD_SCRIPTS else "transformer"
    return f"{denoiser if component == 'denoiser' else component}.{path}"


def _as(own: NameTable, rows: Sequence[Row], form: FileForm) -> NameTable:
    are_same = all(own.targets[row.target] == row for row in rows)
    return own if are_same and form is own.form else table_of(own.family, rows, form)
