"""Where the inputs of the examples lie."""

from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from lorasmith.data.types import CachedExample
from lorasmith.engine.device import Device
from lorasmith.engine.resident import resident
from tests.engine.one_layer import CPU

CUDA = Device(torch.device("cuda"), "a card", "asked", 1)
SIZE = 64  # bytes of all inputs below


def examples() -> list[CachedExample]:
    text = torch.ones(8)
    return [CachedExample({"latents": torch.full((4,), float(number)), "text": text}) for number in range(2)]


@pytest.mark.parametrize(
    ("free", "available", "expected"), [(640, 0, "sent"), (639, 640, "pinned"), (639, 639, "left")]
)
def test_as_near_as_there_is_memory(free: int, available: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[str] = []

    def moved(how: str) -> Any:
        def move(_: Device, value: Tensor) -> Tensor:
            moves.append(how)
            return value.clone()

        return move

    monkeypatch.setattr(Device, "free_memory", lambda _: free)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": available}))
    monkeypatch.setattr(Device, "sent", moved("sent"))
    monkeypatch.setattr(Device, "pinned", moved("pinned"))
    given = examples()
    found = resident(given, CUDA)
    assert moves == ([] if expected == "left" else [expected] * 3)  # the text once
    assert found[0].inputs["text"] is found[1].inputs["text"]
    for one, other in zip(found, given, strict=True):
        assert all(torch.equal(one.inputs[name], value) for name, value in other.inputs.items())


def test_on_a_cpu_they_are_there() -> None:
    given = examples()
    assert resident(given, CPU) is given
