"""Adds a LoRA to the weights of a denoiser as they are read: in float32, rounded once to the type they are used in. And
takes it out for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lorasmith.errors import ModelError
from lorasmith.families.weights import AddedLora, AddedPair

Change = Callable[[Tensor], Tensor]
"""A weight in float32 -> the same with the LoRA's change, in float32."""


def changes(added: AddedLora) -> dict[str, Change]:
    """The change of each weight, by its canonical name.

    Raises:
        ModelError: `lora_unreadable`, the file has changed since it was recognised.
    """
    tensors = _read(added)
    return {pair.weight: partial(_sum, added, pair, tensors[pair.down], tensors[pair.up]) for pair in added.pairs}


@contextmanager
def taken_out(added: AddedLora | None, denoiser: nn.Module) -> Iterator[None]:
    """The denoiser without the LoRA in its weights, while inside a `with` block; None: as it is.

    The LoRA's part is subtracted from the output of each layer, and the weights, which may be quantised, are not
    touched. What an adapter adds to a layer stays.

    Raises:
        ModelError: `lora_unreadable`, the file has changed since it was recognised.
    """
    tensors, hooks = _read(added) if added else {}, []
    for pair in added.pairs if added else ():
        layer = denoiser.get_submodule(pair.weight.removesuffix(".weight"))
        part = _Part(tensors[pair.down], _rows(pair, tensors[pair.up]), pair.scale)
        hooks.append(layer.register_forward_hook(part.subtracted))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(slots=True)
class _Part:
    """The LoRA's part of the output of a layer."""

    down: Tensor
    up: Tensor
    scale: float

    def subtracted(self, _layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        (x,) = inputs
        self.down, self.up = (matrix.to(x.device, x.dtype) for matrix in (self.down, self.up))
        low_rank = x.flatten(0, -2) @ self.down.T
        return torch.addmm(output.flatten(0, -2), low_rank, self.up.T, alpha=-self.scale).view_as(output)


def _read(added: AddedLora) -> dict[str, Tensor]:
    try:
        with safe_open(added.path, framework="pt") as file:
            return {key: file.get_tensor(key) for pair in added.pairs for key in (pair.down, pair.up)}
    except (OSError, SafetensorError) as error:
        raise ModelError("lora_unreadable", path=str(added.path), reason=str(error)) from error


def _rows(pair: AddedPair, up: Tensor) -> Tensor:
    """The rows of `up` that belong to the pair's weight."""
    height = len(up) // pair.parts
    return up[pair.part * height : (pair.part + 1) * height]


def _sum(added: AddedLora, pair: AddedPair, down: Tensor, up: Tensor, weight: Tensor) -> Tensor:
    rows = _rows(pair, up)
    if len(up) % pair.parts or weight.ndim != 2 or weight.shape != (len(rows), down.shape[1]):
        raise ModelError("training_adapter_layers", path=str(added.path), key=pair.down)
    return torch.addmm(weight, rows.to(torch.float32), down.to(torch.float32), alpha=pair.scale)
