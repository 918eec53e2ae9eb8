"""The names of a family's layers in other programs' files: those of a second file, beside the family's own.

kohya: `lora_unet_` and the original model's path, with alphas. comfyui: `diffusion_model.` and that path. diffusers:
`transformer.` or `unet.` and diffusers' path. The latter two have the scale in the tensors.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from lorasmith.exporting.name_table import PEFT, SD_SCRIPTS, FileForm, NameTable, Row, spec_of_piece, table_of

_KOHYA, _COMFYUI = "lora_unet_", "diffusion_model."
_KOHYA_CLIP, _CLIP = "lora_te1_", "text_encoder."
_OWN = re.compile(r"^(diffusion_model|transformer)\.")


class Native(NamedTuple):
    """The place of a layer in the original model."""

    path: str  # "layers.0.attention.qkv"
    part: slice | None  # the layer's rows, where the model has several as one


def parse_native(text: str) -> dict[str, Native]:
    """Target -> its place, from the tab-separated columns target, module, part; of those whose path there is another
    than in the family's own files. Empty where the text is."""
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
        return _in_diffusers(own)
    if own.form is SD_SCRIPTS:  # which ComfyUI reads too
        return own
    rows = []
    for row in own.targets.values():
        path, part = native.get(row.target) or Native(_OWN.sub("", row.module), row.part)
        name = f"{_KOHYA}{path.replace('.', '_')}" if form == "kohya" else f"{_COMFYUI}{path}"
        if row.component != "denoiser":  # of CLIP, which ComfyUI reads by diffusers' names
            name = f"{_KOHYA_CLIP}{path.removeprefix(_CLIP).replace('.', '_')}" if form == "kohya" else path
        rows.append(replace(row, module=name, part=part))
    return _as(own, rows, SD_SCRIPTS if form == "kohya" else PEFT)


def all_names(own: NameTable, native: Mapping[str, Native]) -> NameTable:
    """The family's table for reading: its modules under the names of every form, its own first."""
    tables = [table_in(own, form, native) for form in ("diffusers", "kohya", "comfyui")]
    modules = {name: rows for table in (own, *tables[::-1]) for name, rows in table.modules.items()}
    return replace(own, modules=modules, pieces=tables[0].pieces)


def _in_diffusers(own: NameTable) -> NameTable:
    rows, pieces = [], {}
    for row in own.targets.values():
        inside, _, _ = row.target.rpartition(".")
        targets = tuple(f"{inside}.{piece}" for piece in row.pieces)
        if targets:
            pieces[row.target] = targets
        layer = spec_of_piece(row.layer, len(targets) or 1)
        for target in targets or (row.target,):
            name = _diffusers(own, target)
            rows.append(replace(row, target=target, module=name, layer=layer, part=None, pieces=()))
    if pieces:
        return replace(table_of(own.family, rows, PEFT), pieces=pieces)
    return _as(own, rows, PEFT)


def _diffusers(own: NameTable, target: str) -> str:
    component, _, path = target.partition(".")
    denoiser = "unet" if own.form is SD_SCRIPTS else "transformer"
    return f"{denoiser if component == 'denoiser' else component}.{path}"


def _as(own: NameTable, rows: Sequence[Row], form: FileForm) -> NameTable:
    are_same = all(own.targets[row.target] == row for row in rows)
    return own if are_same and form is own.form else table_of(own.family, rows, form)
