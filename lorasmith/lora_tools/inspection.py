"""Reads a LoRA file whole, tensor by tensor: the size of its changes by block, its hashes and what is odd about it."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lorasmith.lora_files.keys import ALPHA
from lorasmith.lora_files.modules import Module
from lorasmith.lora_files.names import FAMILY_NAMES, layers_of
from lorasmith.lora_files.reader import LoraFile, read_lora
from lorasmith.lora_files.readers import Reading, readings
from lorasmith.lora_tools.arrays import read_array
from lorasmith.lora_tools.changes import norm
from lorasmith.lora_tools.facts import training_facts
from lorasmith.lora_tools.oddities import Measured, Oddity, oddities

_BLOCK = re.compile(
    r"^(?:(down_blocks|up_blocks|input_blocks|output_blocks|double_blocks|single_blocks|joint_blocks|blocks|layers|"
    r"transformer_blocks|single_transformer_blocks|noise_refiner|context_refiner)_(\d+)|(mid_block|middle_block))_"
)
_CHUNK = 2**24  # bytes


@dataclass(frozen=True, slots=True)
class Block:
    """The layers of a block of the model that the file changes."""

    component: str
    name: str  # "down_blocks.1", "mid_block"; "" for all that is in no block
    modules: int
    norm: float | None  # of the change of all of its layers; None where no layer has a norm


@dataclass(frozen=True, slots=True)
class Inspection:
    """Everything that a LoRA file tells."""

    file: LoraFile
    blocks: tuple[Block, ...]
    measured: Measured
    readings: tuple[Reading, ...]  # what other programs do with it; none for families that are not trained here
    facts: Mapping[str, Any]  # of the training, as the metadata state them
    hashes: Mapping[str, str]
    oddities: tuple[Oddity, ...]

    def as_plain(self) -> dict[str, Any]:
        """JSON values."""
        file = self.file
        return {
            "path": str(file.path),
            "bytes": file.path.stat().st_size,
            "family": file.family,
            "family_name": FAMILY_NAMES.get(file.family, ""),
            "families": list(file.families),
            "kinds": dict(file.kinds),
            "differences": dict(file.differences),
            "namings": dict(file.namings),
            "components": dict(file.components),
            "ranks": {str(rank): count for rank, count in sorted(file.ranks.items())},
            "alphas": {str(alpha): count for alpha, count in file.alphas.items()},
            "dtypes": dict(file.dtypes),
            "unknown_keys": list(file.unknown),
            "blocks": [
                {
                    "component": block.component,
                    "name": block.name,
                    "modules": block.modules,
                    "norm": _finite(block.norm),
                }
                for block in self.blocks
            ],
            "norms": {name: _finite(value) for name, value in self.measured.norms.items()},
            "readers": [reading._asdict() for reading in self.readings],
            "training": dict(self.facts),
            "hashes": dict(self.hashes),
            "odd": [{"code": odd.code, **odd.fields} for odd in self.oddities],
            "metadata": dict(file.metadata),
        }


def inspect_lora(path: Path) -> Inspection:
    """Reads the file; no more than one layer is in memory at a time.

    Raises:
        ModelError: it is no LoRA, or is damaged.
    """
    file = read_lora(path)
    hashes = _hashes(file)
    with path.open("rb") as stream:
        measured = _measure(file, stream)
    facts = training_facts(file.metadata)
    odd = oddities(file, measured, hashes)
    return Inspection(file, _blocks(file, measured), measured, readings(file), facts, hashes, odd)


def _measure(file: LoraFile, stream: BinaryIO) -> Measured:
    norms: dict[str, float | None] = {}
    not_finite, zero = [], []
    for module in file.modules:
        arrays = {suffix: read_array(stream, info) for suffix, info in module.tensors.items() if suffix != ALPHA}
        is_finite = all(bool(np.isfinite(array).all()) for array in arrays.values())
        if not is_finite or (module.alpha is not None and not math.isfinite(module.alpha)):
            not_finite.append(module.name)
        try:
            norms[module.name] = norm(module, arrays)
        except ValueError:  # matrices that do not fit each other
            norms[module.name] = None
        if norms[module.name] == 0:
            zero.append(module.name)
    return Measured(norms, tuple(not_finite), tuple(zero))


def _blocks(file: LoraFile, measured: Measured) -> tuple[Block, ...]:
    grouped: dict[tuple[str, str], list[Module]] = {}
    for module in file.modules:
        grouped.setdefault((module.component, _block_of(file, module)), []).append(module)
    blocks = []
    for (component, name), modules in grouped.items():
        norms = [found for module in modules if (found := measured.norms[module.name]) is not None]
        whole = math.sqrt(sum(value * value for value in norms)) if norms else None
        blocks.append(Block(component, name, len(modules), whole))
    return tuple(sorted(blocks, key=_place))


def _block_of(file: LoraFile, module: Module) -> str:
    """The block in the model's own path where the family has a table of names, else in the file's."""
    path = module.path
    try:
        rows = layers_of(file.family).rows_of(module)
    except KeyError:  # a family that is not trained here
        rows = ()
    if rows:
        path = rows[0].target.partition(".")[2].replace(".", "_")
    found = _BLOCK.match(path)
    if found is None:
        return ""
    return found[3] or f"{found[1]}.{found[2]}"


def _place(block: Block) -> tuple[object, ...]:
    """The order of blocks: as a picture goes through the model."""
    kind, _, number = block.name.partition(".")
    orders = ("down_blocks", "input_blocks", "mid_block", "middle_block", "up_blocks", "output_blocks")
    order = orders.index(kind) if kind in orders else len(orders)
    return (block.component, order, kind, int(number or 0))


def _hashes(file: LoraFile) -> dict[str, str]:
    """SHA-256 of the file, as CivitAI and the WebUI show it, and of its tensors alone, as `sshs_model_hash`."""
    begin = min((info.start for info in file.header.tensors.values()), default=0)
    whole, data = hashlib.sha256(), hashlib.sha256()
    with file.path.open("rb") as stream:
        whole.update(stream.read(begin))
        while chunk := stream.read(_CHUNK):
            whole.update(chunk)
            data.update(chunk)
    return {"sha256": whole.hexdigest(), "sshs_model_hash": data.hexdigest()}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
