"""Work on many things, so many at once as fit into memory. Nothing here is counted or remembered."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from lorasmith.engine.device import Device, is_out_of_memory

T = TypeVar("T")
R = TypeVar("R")


def map_in_batches(
    items: Sequence[T],
    work: Callable[[Sequence[T]], Sequence[R]],
    *,
    kind: Callable[[T], Hashable],
    at_once: int,
    device: Device,
) -> list[R]:
    """What `work` makes of each item, in order. Only items of one `kind` come together, at most `at_once` of them;
    where memory runs out half as many, from there on.

    Raises what `work` raises, running out of memory with a single item too.
    """
    by_kind: dict[Hashable, list[int]] = {}
    for number, item in enumerate(items):
        by_kind.setdefault(kind(item), []).append(number)
    results: dict[int, R] = {}
    for numbers in by_kind.values():
        while numbers:
            chosen = numbers[:at_once]
            found: Sequence[R] | None = None
            try:
                found = work([items[number] for number in chosen])
            except (RuntimeError, MemoryError) as error:
                if len(chosen) == 1 or not is_out_of_memory(error):
                    raise
            if found is None:  # outside of the handler, so that what the failed attempt held is gone
                device.release_memory()
                at_once = max(1, len(chosen) // 2)
                continue
            results.update(zip(chosen, found, strict=True))
            numbers = numbers[len(chosen) :]
    return [results[number] for number in range(len(items))]
