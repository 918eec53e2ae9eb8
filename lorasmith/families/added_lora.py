"""Adds a LoRA to the weights of a denoiser as they are read: in float32, rounded once to the type they are used in."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lorasmith.errors import ModelError
from lorasmith.families.weights import AddedLora, AddedPair

Change = Callable[[Tensor], Tensor]
"""A weight in float32 -> the same with the LoRA's change, in float32."""


def changes(added: AddedLora) -> dict[str, Change]:
    """The change of each weight, by its canonical name.

    Raises:
        ModelError: `lora_unreadable`, the file has changed since it was recognised.
    """
    try:
        with safe_open(added.path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for pair in added.pairs for key in (pair.down, pair.up)}
    except (OSError, SafetensorError) as error:
        raise ModelError("lora_unreadable", path=str(added.path), reason=str(error)) from error
    return {pair.weight: partial(_sum, added, pair, tensors[pair.down], tensors[pair.up]) for pair in added.pairs}


def _sum(added: AddedLora, pair: AddedPair, down: Tensor, up: Tensor, weight: Tensor) -> Tensor:
    height = len(up) // pair.parts
    rows = up[pair.part * height : (pair.part + 1) * height]
    if len(up) % pair.parts or weight.ndim != 2 or weight.shape != (len(rows), down.shape[1]):
        raise ModelError("training_adapter_layers", path=str(added.path), key=pair.down)
    return torch.addmm(weight, rows.to(torch.float32), down.to(torch.float32), alpha=pair.scale)
