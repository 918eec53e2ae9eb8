"""Writes a LoRA under the names of other programs, with the same effect.

Files of diffusers have no alpha: there the scale goes into the matrices. In files of sd-scripts all layers of a part of
the model get one alpha, since diffusers takes the commonest for all; what differs goes into the matrices.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from lorasmith.errors import ModelError
from lorasmith.exporting.formats import parse_native, table_in
from lorasmith.exporting.name_table import PEFT, NameTable
from lorasmith.families import native_names
from lorasmith.lora_files.keys import ALPHA, DOWN, UP
from lorasmith.lora_files.names import layers_of
from lorasmith.lora_files.peft_settings import CONFIG_FILE, WEIGHTS_FILE
from lorasmith.lora_files.reader import LoraFile, read_lora
from lorasmith.lora_tools.arrays import Array
from lorasmith.lora_tools.changes import QUIET
from lorasmith.lora_tools.layers import Layer, layers, pairs
from lorasmith.lora_tools.low_rank import balanced, check_range, values_of
from lorasmith.lora_tools.regroup import regrouped
from lorasmith.lora_tools.writing import PRECISIONS, Stored, known_family, metadata_of, refuse_existing, write_lora
from lorasmith.runs.durable import map_write_errors, place_new, sync_folder, write_atomically

Style = Literal["kohya", "peft", "diffusers", "comfyui"]
STYLES: tuple[Style, ...] = ("kohya", "peft", "diffusers", "comfyui")
_KOHYA_SUFFIXES = frozenset({DOWN, UP, "lora_mid.weight", "dora_scale", "scalar", "diff", "diff_b", "w_norm", "b_norm"})


@dataclass(frozen=True, slots=True)
class Converted:
    """The file that was written."""

    path: Path
    layers: int
    rounded: int  # matrices whose numbers had to be rounded to their data type once more


def convert(source: Path, out: Path, *, to: Style, precision: str = "") -> Converted:
    """Writes `out`: a file, or for PEFT a folder with a folder for each part of the model.

    Args:
        precision: a key of PRECISIONS; "": the data types of the source.

    Raises:
        ModelError: the source is no LoRA, of a family without a table of names, or of a kind that the other names lack.
        InputError: `tool_output_exists`, or the folder cannot be written.
    """
    refuse_existing(out)
    file = read_lora(source)
    family = known_family(file)
    dtype = PRECISIONS.get(precision, "")
    with source.open("rb") as stream:
        if layers_of(family).table.form is PEFT and to != "peft":
            return _to_table(file, family, stream, out, dtype, _table(family, to))
        if to in ("kohya", "comfyui"):
            return _to_kohya(file, family, stream, out, dtype)
        if to == "diffusers":
            return _to_diffusers(file, family, stream, out, dtype)
        return _to_peft(file, family, stream, out, dtype)


def _to_kohya(file: LoraFile, family: str, stream: BinaryIO, out: Path, dtype: str) -> Converted:
    found = list(layers(file, family))
    common = _common_alphas(found)
    tensors: dict[str, Stored] = {}
    alphas: Counter[float] = Counter()
    rounded = 0
    for layer in found:
        module = layer.module
        unknown = module.tensors.keys() - _KOHYA_SUFFIXES - {ALPHA}
        if any(not suffix.startswith(("hada_", "lokr_")) for suffix in unknown):
            raise ModelError("tool_kind", path=str(file.path), found=[min(unknown)], tool="convert")
        own = module.alpha if module.alpha is not None else module.rank
        target = common.get(module.component) if layer.is_pair else own
        factor = own / target if layer.is_pair and own is not None and target else 1.0
        stored, times = _scaled(layer, stream, factor, dtype)
        rounded += times
        tensors |= {f"{layer.name}.{suffix}": tensor for suffix, tensor in stored.items()}
        if target is not None:
            tensors[f"{layer.name}.{ALPHA}"] = Stored.of(np.array(target, np.float32), "F32")
            alphas[float(target)] += 1
    kinds = frozenset("dora" if layer.module.has_dora else layer.module.kind for layer in found)
    ranks = Counter(layer.module.rank for layer in found if layer.module.rank is not None)
    metadata = metadata_of(file.metadata, family, ranks=ranks, alphas=alphas, kinds=kinds)
    return Converted(write_lora(out, tensors, metadata), len(found), rounded)


def _table(family: str, form: str) -> NameTable:
    return table_in(layers_of(family).table, form, parse_native(native_names(family)))


def _to_table(file: LoraFile, family: str, stream: BinaryIO, out: Path, dtype: str, table: NameTable) -> Converted:
    """Writes the names of a table: with the scales in the matrices, or with an alpha for each layer."""
    found = pairs(file, family, "convert")
    tensors: dict[str, Stored] = {}
    ranks: Counter[int] = Counter()
    alphas: Counter[float] = Counter()
    rounded = 0
    for made in regrouped(found, table, layers_of(family).known.pieces):
        module = made.first.module
        rank = module.rank or 1
        alpha = float(rank)  # that readers take where there is none
        if not made.is_unchanged:
            product = made.product(stream)
            rank, alpha = product.rank, float(product.rank)
            up, down = balanced(product.up, product.down)
            stored, times = _rounded({UP: up, DOWN: down}, dict.fromkeys((UP, DOWN), dtype or module.tensors[UP].dtype))
            check_range(stored, made.name)
        elif table.form.has_alphas:
            alpha = rank if module.alpha is None else module.alpha
            stored, times = _scaled(made.first, stream, 1.0, dtype)
        else:
            stored, times = _scaled(made.first, stream, module.scale, dtype)
        rounded += times
        tensors |= {f"{made.name}.{table.form.suffix(suffix)}": tensor for suffix, tensor in stored.items()}
        if table.form.has_alphas:
            tensors[f"{made.name}.{ALPHA}"] = Stored.of(np.array(alpha, np.float32), "F32")
        ranks[rank] += 1
        alphas[alpha] += 1
    metadata = metadata_of(file.metadata, family, ranks=ranks, alphas=alphas, kinds=frozenset({"lora"}))
    return Converted(write_lora(out, tensors, {**metadata, "format": "pt"}), len(found), rounded)


def _common_alphas(found: list[Layer]) -> dict[str, float]:
    """The commonest positive alpha of the pairs of each part, which all of them get; where there is none, the rank.

    Readers take 0 for no alpha, and a part without alphas has the scale 1.
    """
    counted: dict[str, Counter[float]] = {}
    ranks: dict[str, Counter[float]] = {}
    for layer in found:
        module = layer.module
        if not layer.is_pair or module.rank is None:
            continue
        ranks.setdefault(module.component, Counter())[float(module.rank)] += 1
        alpha = module.alpha if module.alpha is not None else module.rank
        if math.isfinite(alpha) and alpha > 0:
            counted.setdefault(module.component, Counter())[float(alpha)] += 1
    return {part: counted.get(part, own).most_common(1)[0][0] for part, own in ranks.items()}


def _to_diffusers(file: LoraFile, family: str, stream: BinaryIO, out: Path, dtype: str) -> Converted:
    found = pairs(file, family, "convert")
    tensors: dict[str, Stored] = {}
    rounded = 0
    for layer in found:
        stored, times = _scaled(layer, stream, layer.module.scale, dtype)
        rounded += times
        component, path = _diffusers_path(layer)
        tensors |= {f"{component}.{path}.{_PEFT[suffix]}": tensor for suffix, tensor in stored.items()}
    ranks = Counter(layer.module.rank or 1 for layer in found)
    alphas = Counter(float(layer.module.rank or 1) for layer in found)  # that readers take
    kinds = frozenset(layer.module.kind for layer in found)
    metadata = {**metadata_of(file.metadata, family, ranks=ranks, alphas=alphas, kinds=kinds), "format": "pt"}
    return Converted(write_lora(out, tensors, metadata), len(found), rounded)


_PEFT = {DOWN: "lora_A.weight", UP: "lora_B.weight"}


def _to_peft(file: LoraFile, family: str, stream: BinaryIO, out: Path, dtype: str) -> Converted:
    """PEFT keeps alphas, so that no number changes."""
    found = pairs(file, family, "convert")
    parts: dict[str, dict[str, Layer]] = {}
    for layer in found:
        component, path = _diffusers_path(layer)
        if component == "text_encoder":  # CLIPTextModel has its layers at the top since transformers 5.6
            path = path.removeprefix("text_model.")
        parts.setdefault(component, {})[path] = layer
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    rounded = 0
    with map_write_errors(out.parent):
        try:
            for component, members in parts.items():
                folder = temporary / component
                folder.mkdir(parents=True)
                tensors: dict[str, Stored] = {}
                for path, layer in members.items():
                    stored, times = _scaled(layer, stream, 1.0, dtype)
                    rounded += times
                    tensors |= {f"base_model.model.{path}.{_PEFT[end]}": tensor for end, tensor in stored.items()}
                write_lora(folder / WEIGHTS_FILE, tensors, {**file.metadata, "format": "pt"})
                text = json.dumps(_peft_config(members), indent=2, sort_keys=True)
                write_atomically(folder / CONFIG_FILE, text.encode())
            place_new(temporary, out)
            sync_folder(out.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return Converted(out, len(found), rounded)


def _peft_config(members: Mapping[str, Layer]) -> dict[str, object]:
    """PEFT's settings of one part of the model."""
    ranks = {path: layer.module.rank or 1 for path, layer in members.items()}
    alphas = {path: layer.module.scale * ranks[path] for path, layer in members.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(members),
        "rank_pattern": {f"^{path}": found for path, found in ranks.items() if found != rank},
        "alpha_pattern": {f"^{path}": found for path, found in alphas.items() if found != alpha},
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "use_dora": False,
        "use_rslora": False,
    }


@QUIET
def _scaled(layer: Layer, stream: BinaryIO, factor: float, dtype: str) -> tuple[dict[str, Stored], int]:
    """The layer's tensors, with the factor in their product, and how many of them had to be rounded."""
    if factor == 1 and not dtype:
        return layer.stored(stream), 0
    arrays = layer.arrays(stream)
    if not all(bool(np.isfinite(array).all()) for array in arrays.values()):
        raise ModelError("tool_not_finite", path=stream.name, name=layer.module.name)
    if factor != 1:
        arrays = _multiplied(arrays, factor)
    stored, rounded = _rounded(arrays, {suffix: dtype or info.dtype for suffix, info in layer.module.tensors.items()})
    check_range(stored, layer.name)
    return stored, rounded


def _rounded(arrays: Mapping[str, Array], dtypes: Mapping[str, str]) -> tuple[dict[str, Stored], int]:
    """The tensors in their data types, float8 aside, and how many of them lost digits."""
    stored, rounded = {}, 0
    for suffix, array in arrays.items():
        dtype = "F32" if dtypes[suffix].startswith("F8") else dtypes[suffix]
        stored[suffix] = Stored.of(array, dtype)
        exact = np.frombuffer(Stored.of(array, "F64").data, "<f8")
        rounded += not np.array_equal(values_of(stored[suffix]), exact)
    return stored, rounded


def _multiplied(arrays: Mapping[str, Array], factor: float) -> dict[str, Array]:
    """The two matrices of a layer with the factor in their product."""
    shapes = {suffix: array.shape for suffix, array in arrays.items()}
    up, down = (arrays[suffix].reshape(len(arrays[suffix]), -1) for suffix in (UP, DOWN))
    up, down = balanced(up * np.float32(factor), down)
    return {DOWN: down.reshape(shapes[DOWN]), UP: up.reshape(shapes[UP])}


def _diffusers_path(layer: Layer) -> tuple[str, str]:
    """The part of the model and the layer's path in it, as diffusers names them."""
    component, _, path = layer.rows[0].target.partition(".")
    denoiser = "transformer" if "." in layer.name else "unet"
    return (denoiser if component == "denoiser" else component), path
