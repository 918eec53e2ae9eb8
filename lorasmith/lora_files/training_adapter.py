"""The training adapter of a distilled base model: a LoRA that is part of the model while it is trained.

It undoes the distillation, so that training does not, and is in no exported file. Needs no torch; the sum is made when
the denoiser is read (`families.added_lora`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lorasmith.errors import ModelError
from lorasmith.exporting.name_table import Row
from lorasmith.families.locate import is_there
from lorasmith.families.split_files import DENOISER
from lorasmith.families.weights import AddedLora, AddedPair, BaseWeights
from lorasmith.lora_files.keys import DOWN, UP
from lorasmith.lora_files.modules import Module
from lorasmith.lora_files.names import FAMILY_NAMES, layers_of
from lorasmith.lora_files.reader import read_lora

_SUFFIXES = frozenset({DOWN, UP})


def with_training_adapter(weights: BaseWeights, path: Path | None) -> BaseWeights:
    """The base model with the training adapter in the file `path`; as it is, where it needs none and none is given.

    Raises:
        ModelError: `model_turbo_adapter`, it needs one; `training_adapter_unneeded`, it is known not to be distilled;
            `training_adapter_missing`, `tool_other_family`, `training_adapter_layers`, or what `read_lora` raises.
    """
    if path is None:
        if weights.needs_adapter:
            raise ModelError("model_turbo_adapter", path=str(weights.path), base=FAMILY_NAMES[weights.family])
        return weights
    if not weights.needs_adapter and not weights.assumed:
        raise ModelError("training_adapter_unneeded", path=str(weights.path))
    if not is_there(path):
        raise ModelError("training_adapter_missing", path=str(path))
    file = read_lora(path)
    if weights.family not in file.families:
        found, wanted = (FAMILY_NAMES.get(name, name) for name in (file.family or "?", weights.family))
        raise ModelError("tool_other_family", path=str(path), found=found, family=wanted)
    if file.unknown:
        raise ModelError("training_adapter_layers", path=str(path), key=file.unknown[0])
    pairs = [pair for module in file.modules for pair in _pairs(weights.family, module, path)]
    return replace(weights, assumed="", added=AddedLora(path, DENOISER, tuple(pairs)))


def _pairs(family: str, module: Module, path: Path) -> Iterator[AddedPair]:
    """The changes of the layers that a module of the file stands for."""
    rows = layers_of(family).rows_of(module)
    is_plain = module.kind == "lora" and module.counted_suffixes == _SUFFIXES and math.isfinite(module.scale)
    if not is_plain or not all(row.component == "denoiser" for row in rows) or not rows:
        raise ModelError("training_adapter_layers", path=str(path), key=module.name)
    for number, row in enumerate(rows):
        yield AddedPair(_weight(row), module.keys[DOWN], module.keys[UP], module.scale, number, len(rows))


def _weight(row: Row) -> str:
    return f"{row.target.partition('.')[2]}.weight"
