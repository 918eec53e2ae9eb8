"""The layers of a LoRA file under the names of their family's table, one at a time, for the tools that change files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from lorasmith.errors import ModelError
from lorasmith.exporting.name_table import Row
from lorasmith.lora_files.keys import ALPHA, DORA, DOWN, UP
from lorasmith.lora_files.modules import Module
from lorasmith.lora_files.names import layers_of
from lorasmith.lora_files.reader import LoraFile
from lorasmith.lora_tools.arrays import FLOATS, Array, read_array, read_bytes
from lorasmith.lora_tools.writing import Stored

PAIRS = frozenset({"lora", "locon"})


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of a file."""

    name: str  # of the module, in the family's table
    rows: tuple[Row, ...]  # more than one where files hold several layers as one module
    module: Module

    @property
    def is_pair(self) -> bool:
        """Whether the change is the product of two matrices and nothing else."""
        return self.module.kind in PAIRS and self.module.tensors.keys() <= {DOWN, UP, ALPHA}

    @property
    def kernel(self) -> tuple[int, ...]:
        """The kernel of a layer that is a 1x1 convolution; () of a linear layer."""
        return (1,) * len(self.rows[0].layer.kernel)

    def arrays(self, file: BinaryIO) -> dict[str, Array]:
        """All tensors but alpha, as float32, in the shapes of the layer."""
        return {
            suffix: read_array(file, info).reshape(self.shape(suffix))
            for suffix, info in self.module.tensors.items()
            if suffix != ALPHA
        }

    def stored(self, file: BinaryIO) -> dict[str, Stored]:
        """All tensors but alpha, as the file has them, in the shapes of the layer."""
        return {
            suffix: Stored.unchanged(info, read_bytes(file, info), self.shape(suffix))
            for suffix, info in self.module.tensors.items()
            if suffix != ALPHA
        }

    def shape(self, suffix: str) -> tuple[int, ...]:
        """The shape that sd-scripts gives this tensor: 1x1 convolutions have four dimensions, linear layers two."""
        shape = self.module.tensors[suffix].shape
        pointwise = all(side == 1 for side in shape[2:])
        if suffix == DORA and len(shape) == 1:
            return (*shape, 1, *self.kernel)
        return (*shape[:2], *self.kernel) if suffix in (DOWN, UP) and pointwise else shape


def layers(file: LoraFile, family: str) -> Iterator[Layer]:
    """The layers of the file, in the order of its names.

    Raises:
        ModelError: `tool_layer_twice`, the file has a layer under two names; `tool_incomplete`, tensors are missing or
            do not fit each other.
    """
    names: set[str] = set()
    table = layers_of(family)
    for module in sorted(file.modules, key=lambda module: module.name):
        name = table.module_of(module)
        if name in names:
            raise ModelError("tool_layer_twice", path=str(file.path), name=name)
        names.add(name)
        is_vector = module.kind == "vector"  # layers of the table have weights of more dimensions
        if not module.kind or is_vector or not _is_computable(module):
            raise ModelError("tool_incomplete", path=str(file.path), name=module.name)
        yield Layer(name, table.known.modules[name], module)


def pairs(file: LoraFile, family: str, tool: str) -> list[Layer]:
    """The layers of a file that has only products of two matrices.

    Raises:
        ModelError: `tool_kind_of_names`, another kind; and as `layers`.
    """
    found = list(layers(file, family))
    others: Mapping[str, Layer] = {layer.module.kind: layer for layer in found if not layer.is_pair}
    if others:
        kinds = sorted({"dora"} if any(layer.module.has_dora for layer in others.values()) else others)
        raise ModelError("tool_kind_of_names", path=str(file.path), found=kinds, tool=tool)
    return found


def _is_computable(module: Module) -> bool:
    """Whether alpha is a number and the tensors are fractions."""
    are_floats = all(info.dtype in FLOATS for suffix, info in module.tensors.items() if suffix != ALPHA)
    return are_floats and (module.alpha is None or math.isfinite(module.alpha))
