"""The names that ComfyUI, Forge, the WebUI and diffusers all read, frozen as a literal file for each model family.

The table of a family has a row for each layer that an adapter may attach to. Names are never made from the modules of
an installed library: those change with its version, and ComfyUI loses the text encoder of a file with such names, while
Forge refuses the whole file.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from lorasmith.targets import LayerSpec

ALPHA = "alpha"  # the suffix of a module's scale, in files of every kind


@dataclass(frozen=True, slots=True)
class Row:
    """A layer that an adapter may change, and its place in a file."""

    target: str  # TargetModule.name: "denoiser.mid_block.attentions.0.proj_in"
    module: str  # its name in files: "lora_unet_mid_block_attentions_0_proj_in"
    component: str  # "denoiser", "text_encoder"
    layer: LayerSpec  # the size in the published models; smaller models use the same names
    part: slice | None  # where files hold several layers as one module (q, k and v): this layer's rows of it
    pieces: tuple[str, ...] = ()  # where diffusers has several layers in its place: their last names, in equal parts
    preset: str = ""  # the smallest preset of `session.layers` that has it; "": `full` alone


@dataclass(frozen=True, slots=True)
class FileForm:
    """The spelling of a module's tensors in the files of a family."""

    has_alphas: bool  # else the tensors have the scale in them, and readers multiply by 1
    suffixes: Mapping[str, str]  # of this project -> of files, where they differ

    def suffix(self, ours: str) -> str:
        """The suffix in files."""
        return self.suffixes.get(ours, ours)


SD_SCRIPTS = FileForm(has_alphas=True, suffixes={})
PEFT = FileForm(has_alphas=False, suffixes={"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"})
"""The form of dotted names. ComfyUI and diffusers both read it; with alphas, diffusers refuses the file."""


@dataclass(frozen=True, slots=True)
class NameTable:
    """All names of a family."""

    family: str  # a key of `families.FAMILIES`
    form: FileForm
    targets: Mapping[str, Row]  # by target
    modules: Mapping[str, tuple[Row, ...]]  # by the name in files; several rows are the parts, in order
    pieces: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By target: the rows that stand for it, in order, where a file has a module for each of them."""


def parse_table(family: str, text: str) -> NameTable:
    """The table of these tab-separated lines, the first of which names the columns: see `table_of`."""
    rows = [_row(line) for line in csv.DictReader(text.splitlines(), delimiter="\t")]
    return table_of(family, rows, PEFT if any("." in row.module for row in rows) else SD_SCRIPTS)


def table_of(family: str, rows: Sequence[Row], form: FileForm) -> NameTable:
    """The table of these rows.

    Asserts that every target has a row of its own, and that parts follow each other without a gap.
    """
    targets = {row.target: row for row in rows}
    assert len(targets) == len(rows), f"{family}: a target with two rows"
    modules: dict[str, list[Row]] = {}
    for row in rows:
        modules.setdefault(row.module, []).append(row)
    for module, parts in modules.items():
        parts.sort(key=lambda row: row.part.start if row.part else 0)
        ends = [0, *accumulate(row.layer.outputs for row in parts)]
        wanted = list(map(slice, ends, ends[1:])) if len(parts) > 1 else [None]
        assert [row.part for row in parts] == wanted, f"{family}: parts of {module}"
    return NameTable(family, form, targets, {module: tuple(parts) for module, parts in modules.items()})


def spec_of_piece(spec: LayerSpec, count: int) -> LayerSpec:
    """The size of one of `count` pieces of a layer."""
    return replace(spec, outputs=spec.outputs // count)


def has_suffix(key: str, suffixes: Collection[str]) -> bool:
    """Whether a key is that of a tensor with one of these suffixes."""
    return any(key.endswith(f".{suffix}") for suffix in suffixes)


def _row(line: Mapping[str, str]) -> Row:
    kernel = tuple(int(side) for side in line["kernel"].split("x")) if line["kernel"] else ()
    assert bool(kernel) == (line["kind"] == "conv"), line
    start, _, stop = line["part"].partition(":")
    part = slice(int(start), int(stop)) if line["part"] else None
    layer = LayerSpec(int(line["out"]), int(line["in"]), kernel)
    pieces = tuple((line.get("pieces") or "").split())
    return Row(line["target"], line["module"], line["component"], layer, part, pieces, line.get("preset") or "")
