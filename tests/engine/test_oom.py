"""As many at once as fit."""

from collections.abc import Sequence

import pytest
import torch

from lorasmith.engine.device import Device
from lorasmith.engine.oom import map_in_batches

CPU = Device(torch.device("cpu"), "cpu", "asked", 1)


class Work:
    """Runs out of memory with more than `room` at once."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.sizes: list[int] = []

    def __call__(self, batch: Sequence[int]) -> list[int]:
        self.sizes.append(len(batch))
        if len(batch) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [-one for one in batch]


def halved(items: Sequence[int], room: int, at_once: int = 8) -> tuple[list[int], list[int]]:
    work = Work(room)
    return map_in_batches(items, work, kind=lambda one: one % 2, at_once=at_once, device=CPU), work.sizes


def test_items_of_a_kind_come_together_and_go_back_in_order() -> None:
    found, sizes = halved([1, 2, 3, 5, 4, 6, 8], room=99)
    assert found == [-1, -2, -3, -5, -4, -6, -8]
    assert sizes == [3, 4]
    assert halved(list(range(0, 22, 2)), room=99, at_once=4)[1] == [4, 4, 3]
    assert halved([], room=1) == ([], [])


def test_half_as_many_from_there_on() -> None:
    found, sizes = halved([2, 4, 6, 8, 10, 12, 14], room=2)
    assert found == [-2, -4, -6, -8, -10, -12, -14]
    assert sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    assert halved([2, 4, 6, 8], room=2)[1] == [4, 2, 2]


def test_a_single_one_that_does_not_fit_is_told() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        halved([2, 4], room=0)


def test_other_errors_are_not_swallowed() -> None:
    def broken(batch: Sequence[int]) -> list[int]:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        map_in_batches([1, 3], broken, kind=lambda one: 0, at_once=2, device=CPU)
