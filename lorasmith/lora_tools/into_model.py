"""Adds LoRAs of any kind that needs no running model to the weights of a base model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lorasmith.errors import InputError, ModelError
from lorasmith.lora_files.keys import DORA
from lorasmith.lora_files.names import FAMILY_NAMES, layers_of
from lorasmith.lora_files.reader import LoraFile, read_lora
from lorasmith.lora_tools.arrays import Array
from lorasmith.lora_tools.changes import MERGEABLE, Rows, changed
from lorasmith.lora_tools.combine import Progress, Source, unseen
from lorasmith.lora_tools.layers import Layer, layers
from lorasmith.lora_tools.models import Change, Model, check_writable, open_model, write_changed
from lorasmith.lora_tools.regroup import parts_of
from lorasmith.lora_tools.writing import check_layers, refuse_existing


@dataclass(frozen=True, slots=True)
class Merged:
    """The model that was written."""

    path: Path
    layers: int  # of which the weights have changed
    left_out: int = 0  # layers of LoRAs for a text encoder that the model lacks


@dataclass(frozen=True, slots=True)
class _Part:
    """A layer's change from one of the files."""

    layer: Layer
    file: LoraFile
    stream: BinaryIO
    weight: float
    begin: int  # of the layer in the module of the file, in outputs of the published model
    outputs: int  # of the layer
    of: int  # of the module

    def applied(self, weight: Array) -> Array:
        """The layer's weight with this change.

        Raises:
            ModelError: `tool_other_size`; `tool_not_finite`, the file holds such numbers.
        """
        arrays = self.layer.arrays(self.stream)
        if not all(bool(np.isfinite(array).all()) for array in arrays.values()):
            raise ModelError("tool_not_finite", path=str(self.file.path), name=self.layer.name)
        try:
            return changed(self.layer.module, arrays, weight, self.weight, self._rows(len(weight)))
        except ValueError as error:
            raise ModelError("tool_other_size", path=str(self.file.path), name=self.layer.name) from error

    def _rows(self, outputs: int) -> Rows:
        """The module's rows for a layer with `outputs` rows: smaller models have the same proportions."""
        begin, over = divmod(self.begin * outputs, self.outputs)
        total, rest = divmod(self.of * outputs, self.outputs)
        if over or rest:
            raise ValueError(f"{outputs} of {total} rows")
        return Rows(begin, begin + outputs, total)


def merge_into(
    base: Path, sources: Sequence[Source], out: Path, progress: Progress = unseen, *, allows_left_out: bool = False
) -> Merged:
    """Writes the base model with the sources' changes, one after another, each with its weight.

    Sums are computed in float32 and rounded once to the data type of the model.

    Args:
        progress: called with the number of layers that are changed, and of all.
        allows_left_out: layers for a text encoder that the model lacks are left out, if others remain.

    Raises:
        ModelError: no base model in safetensors files; a LoRA of another family, of a kind that depends on the running
            model, or with layers or sizes that the model does not have.
        InputError: `tool_output_exists`, `tool_output_inside`, or the folder cannot be written.
    """
    refuse_existing(out)
    if out.resolve().is_relative_to(base.resolve()):
        raise InputError("tool_output_inside", path=str(out), model=str(base))
    model = open_model(base)
    kept = model.components if allows_left_out else None
    with ExitStack() as stack:
        parts: dict[str, list[_Part]] = {}
        left_out = 0
        for source in sources:
            found, lost = _parts_of(source, model, stack, kept)
            left_out += lost
            for target, part in found:
                parts.setdefault(target, []).append(part)
        number = count(1)
        changes = {
            target: _change(members, lambda: progress(next(number), len(parts))) for target, members in parts.items()
        }
        return Merged(write_changed(model, out, changes), len(changes), left_out)


def check_merge(base: Path, source: Source, *, unused: Collection[str] = ()) -> int:
    """The number of layers of the source that are left out of a merge, found without writing and from headers alone.

    Args:
        unused: components that other files than the base model's are taken for; layers for them are left out.

    Raises:
        ModelError: as `merge_into`, but for the sizes of layers, and `tool_weight_type`.
    """
    model = open_model(base)
    with ExitStack() as stack:
        parts, left_out = _parts_of(source, model, stack, model.components.difference(unused))
    for target, _ in parts:
        at = model.places[target]
        check_writable(model.headers[at.file], at.place.name)
    return left_out


def _parts_of(
    source: Source, model: Model, stack: ExitStack, kept: Collection[str] | None
) -> tuple[list[tuple[str, _Part]], int]:
    """The layers of the model that the source changes, by target, and the number of those that are left out.

    Args:
        kept: components that are changed; None: all, those too that the model does not have.
    """
    file = read_lora(source.path)
    _check(file, model)
    stream = stack.enter_context(source.path.open("rb"))
    parts: list[tuple[str, _Part]] = []
    left_out = 0
    for layer in layers(file, model.family):
        if kept is not None and layer.rows[0].component not in kept:
            left_out += 1
        else:
            parts += _parts(layer, file, stream, source.weight, model)
    return parts, left_out


def _parts(layer: Layer, file: LoraFile, stream: BinaryIO, weight: float, model: Model) -> Iterator[tuple[str, _Part]]:
    """The layers of the model that a layer of the file stands for, by target.

    Raises:
        ModelError: `tool_layer_missing`; `tool_kind`, DoRA whose lengths are those of several layers together.
    """
    found = parts_of(layer.rows, layers_of(model.family).known.pieces)
    total = sum(part.outputs for part in found)
    if len(found) > 1 and layer.module.has_dora and layer.shape(DORA)[0] == 1:
        raise ModelError("tool_kind", path=str(file.path), found=["dora"], tool="merge")
    begin = 0
    for part in found:
        if part.target not in model.places:
            raise ModelError("tool_layer_missing", path=str(model.path), name=part.target)
        yield part.target, _Part(layer, file, stream, weight, begin, part.outputs, total)
        begin += part.outputs


def _check(file: LoraFile, model: Model) -> None:
    """Returns where every layer of the file can be added to a weight of the model."""
    if model.family not in file.families:
        found, wanted = (FAMILY_NAMES.get(name, name) for name in (file.family or "?", model.family))
        raise ModelError("tool_other_family", path=str(file.path), found=found, family=wanted)
    check_layers(file, model.family)
    for module in file.modules:
        biases = {"diff_b", "b_norm", "lora_up.bias"} & module.tensors.keys()
        if (module.kind and module.kind not in MERGEABLE) or biases:
            raise ModelError("tool_kind", path=str(file.path), found=[module.kind, *sorted(biases)], tool="merge")


def _change(members: Sequence[_Part], finished: Callable[[], None]) -> Change:
    def applied(weight: Array) -> Array:
        for part in members:
            weight = part.applied(weight)
        finished()
        return np.asarray(weight, np.float32)

    return applied
