"""Frozen weights in the computer's memory, brought to the device a layer ahead, into buffers that are used again.

Nothing is copied back: frozen weights do not change. Copies change no bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from lorasmith.engine.device import HostCopies

SLOTS = 3  # the layer that is computed, the one before, whose work may not be done, and the next
CONTEXT = 24  # layers by which the next is known: more than a block has, which is computed once on its way back too
_ALIGNED_BYTES = 64
_PIECE = 1 << 28  # bytes of the computer's memory that are pinned at a time


class Stored(Protocol):
    """The parts of a layer's weight."""

    kept: Mapping[str, Tensor]
    ring: Ring | None


class _Place(NamedTuple):
    """Where a part lies in the bytes of its layer."""

    start: int
    shape: torch.Size
    dtype: torch.dtype

    def of(self, buffer: Tensor) -> Tensor:
        end = self.start + self.shape.numel() * self.dtype.itemsize
        return buffer[self.start : end].view(self.dtype).view(self.shape)


@dataclass(eq=False, slots=True)
class _Slot:
    """A buffer on the device, with the parts that were copied into it last."""

    buffer: Tensor  # (bytes,) uint8
    holds: Stored | None = None
    copied: Any = None  # what `HostCopies.wait` waits for


class Ring:
    """Takes the parts of layers out of the device's memory, and brings them back when they are asked for.

    A pass through a model asks for the same layers in the same order each time, with each block twice where its
    activations are computed twice. What followed some layers once is taken to follow them again, and is copied while
    the last of them is computed. A wrong guess costs time only.
    """

    def __init__(self, device: torch.device, copies: HostCopies | None = None) -> None:
        self._device = device
        self._copies = copies or HostCopies(device)
        self._rests: list[Tensor] = []  # what is left of each piece of the computer's memory
        self._hosts: dict[Stored, Tensor] = {}
        self._places: dict[Stored, dict[str, _Place]] = {}
        self._slots: list[_Slot] = []
        self._recent: deque[Stored] = deque(maxlen=CONTEXT)
        self._next: dict[tuple[Stored, ...], Stored] = {}

    def add(self, layer: Stored) -> None:
        """Takes the parts of a layer out of the device's memory. All layers are added before one is taken."""
        places, end = {}, 0
        for name, part in layer.kept.items():
            places[name] = _Place(end, part.shape, part.dtype)
            end += -(-part.numel() * part.element_size() // _ALIGNED_BYTES) * _ALIGNED_BYTES
        self._places[layer], self._hosts[layer] = places, self._host_memory(end)
        for name, part in self._parts_in(self._hosts[layer], layer).items():
            part.copy_(layer.kept[name])
        layer.kept, layer.ring = {}, self

    def allocate(self) -> None:
        """Makes the buffers on the device, once all layers are added."""
        size = max(len(host) for host in self._hosts.values())
        self._slots = [_Slot(torch.empty(size, dtype=torch.uint8, device=self._device)) for _ in range(SLOTS)]

    def take(self, layer: Stored) -> dict[str, Tensor]:
        """The parts on the device; they stay there until two other layers have been taken."""
        slot = self._filled(layer)
        self._copies.wait(slot.copied)
        if not self._recent or layer is not self._recent[-1]:
            self._next[tuple(self._recent)] = layer
            self._recent.append(layer)
            following = self._next.get(tuple(self._recent))
            if following is not None:
                self._filled(following)
                self._slots.sort(key=lambda other: other is slot)  # the oldest is the next to be filled
        return self._parts_in(slot.buffer, layer)

    def _filled(self, layer: Stored) -> _Slot:
        """The slot with the layer's parts, to which they are copied where no slot holds them; it counts as the newest
        from now on."""
        slot = next((slot for slot in self._slots if slot.holds is layer), None)
        if slot is None:
            slot = self._slots[0]
            host = self._hosts[layer]
            slot.copied, slot.holds = self._copies.start(slot.buffer[: len(host)], host), layer
        self._slots.remove(slot)
        self._slots.append(slot)
        return slot

    def _host_memory(self, size: int) -> Tensor:
        """(size,) bytes of a piece that layers share. Torch pins memory in powers of two: a layer of 37 MiB would take
        64 (`roundSize` in torch 2.13's ATen/core/CachingHostAllocator.h)."""
        place = next((place for place, rest in enumerate(self._rests) if len(rest) >= size), len(self._rests))
        if place == len(self._rests):
            self._rests.append(self._copies.host_memory(max(_PIECE, 1 << (size - 1).bit_length())))
        own, self._rests[place] = self._rests[place][:size], self._rests[place][size:]
        return own

    def _parts_in(self, buffer: Tensor, layer: Stored) -> dict[str, Tensor]:
        return {name: place.of(buffer) for name, place in self._places[layer].items()}
