"""Keeps what the encoders made of the examples where a step can have it without waiting."""

from __future__ import annotations

from collections.abc import Sequence

import psutil

from lorasmith.data.types import CachedExample
from lorasmith.engine.device import Device

MAX_SHARE = 0.1
"""The most that is taken of the memory that is free once the models are loaded: of the device's, since activations need
the rest, or of the computer's, since pinned memory serves nothing else."""


def resident(examples: Sequence[CachedExample], device: Device) -> Sequence[CachedExample]:
    """The examples with their inputs on the device, where all together take a small share of its memory; else in the
    computer's memory at fixed addresses, from which a GPU copies by itself; else as they are. No number changes, and
    examples that share a tensor still do."""
    if not device.is_async:
        return examples
    tensors = {id(value): value for example in examples for value in example.inputs.values()}
    size = sum(value.numel() * value.element_size() for value in tensors.values())
    if size <= MAX_SHARE * device.free_memory():
        moved = {key: device.sent(value) for key, value in tensors.items()}
    elif size <= MAX_SHARE * psutil.virtual_memory().available:
        moved = {key: device.pinned(value) for key, value in tensors.items()}
    else:
        return examples
    return [CachedExample({name: moved[id(value)] for name, value in example.inputs.items()}) for example in examples]
