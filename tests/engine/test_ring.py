"""A ring of buffers: each layer gets its own numbers, whenever the copies are really made, and mostly ahead."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lorasmith.engine.device import HostCopies
from lorasmith.engine.ring import SLOTS, Ring

CPU = torch.device("cpu")


class Layer:
    def __init__(self, number: int) -> None:
        self.number = number
        numbers = torch.full((5, 3), float(number))
        self.kept = {"stored": numbers.to(torch.int8), "factors": numbers[:, :1].clone()}
        self.ring: Ring | None = None


class LateCopies(HostCopies):
    """Makes a copy when it is waited for, as a slow bus does."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.begun = 0
        self.begun_at_wait: list[int] = []

    def start(self, target: Tensor, source: Tensor) -> Any:
        self.begun += 1
        return target, source

    def wait(self, copied: Any) -> None:
        self.begun_at_wait.append(self.begun)
        target, source = copied
        target.copy_(source)


def ring_of(layers: list[Layer], copies: HostCopies | None = None) -> Ring:
    ring = Ring(CPU, copies)
    for layer in layers:
        ring.add(layer)
    ring.allocate()
    return ring


ORDERS = {
    "forward and back": [0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0],
    "blocks computed twice": [0, 1, 2, 3, 4, 5, 3, 4, 5, 5, 4, 3, 0, 1, 2, 2, 1, 0],
    "the same layer twice": [0, 0, 1, 1, 2, 2, 2, 1],
}


@pytest.mark.parametrize("copies", [HostCopies, LateCopies])
@pytest.mark.parametrize("order", ORDERS)
def test_each_layer_gets_its_numbers(order: str, copies: type[HostCopies]) -> None:
    layers = [Layer(number) for number in range(6)]
    ring = ring_of(layers, LateCopies() if copies is LateCopies else HostCopies(CPU))
    assert all(layer.ring is ring and not layer.kept for layer in layers)
    for number in ORDERS[order] * 3 + [3, 0, 5, 2]:
        parts = ring.take(layers[number])
        assert parts["stored"].dtype == torch.int8
        assert torch.equal(parts["stored"], torch.full((5, 3), number, dtype=torch.int8))
        assert torch.equal(parts["factors"], torch.full((5, 1), float(number)))


@pytest.mark.parametrize("order", ["forward and back", "blocks computed twice"])
def test_once_the_order_is_known_layers_are_there_before_they_are_asked_for(order: str) -> None:
    layers, copies = [Layer(number) for number in range(6)], LateCopies()
    ring = ring_of(layers, copies)
    for number in ORDERS[order] * 4:  # a context is longer than these passes
        ring.take(layers[number])
    for number in ORDERS[order]:
        begun = copies.begun
        ring.take(layers[number])
        assert copies.begun_at_wait[-1] == begun, f"layer {number} was copied when it was asked for"


def test_memory_that_is_pinned_in_powers_of_two_is_shared() -> None:
    """Layers of FLUX.1 in int8, each alone, would take 1.5 times their size."""

    pieces = list[int]()

    class Pinned(HostCopies):
        def host_memory(self, size: int) -> Tensor:
            pieces.append(size)
            return torch.empty(size, dtype=torch.uint8, device="meta")

    sizes = [3072 * width for width in (3072, 3072, 3072, 3072, 12288, 15360, 9216, 18432)] * 20 + [1 << 29]
    ring = Ring(torch.device("meta"), Pinned(CPU))
    for size in sizes:
        layer = Layer(0)
        layer.kept = {"stored": torch.empty(size, dtype=torch.int8, device="meta")}
        ring.add(layer)
    assert all(piece.bit_count() == 1 for piece in pieces)
    assert sum(sizes) <= sum(pieces) < 1.08 * sum(sizes)


def test_the_last_layers_stay_and_memory_is_that_of_the_slots() -> None:
    layers = [Layer(number) for number in range(6)]
    ring = ring_of(layers)
    pointers = set()
    for number in [0, 1, 2, 3, 4, 5] * 2:
        before = ring.take(layers[number - 1])
        parts = ring.take(layers[number])
        assert (before["stored"] == (number - 1) % 6).all(), "a layer stays while the next is taken"
        pointers.add(parts["stored"].data_ptr())
    assert len(pointers) == SLOTS
