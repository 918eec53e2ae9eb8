"""The processes that train one adapter together: who computes which micro-batch, and what all must decide alike.

Every process holds the whole adapter and applies the same updates. A decision that only one of them took would leave
the others waiting for it, so each goes through `World.any`.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from torch import Tensor

from lorasmith.engine.tree_sum import TreeSum

T = TypeVar("T")


class World(Protocol):
    """All processes of a run, seen from one of them. Each method but `micro_batches` is a meeting point: all processes
    call it in the same order."""

    rank: int  # of this process, from 0
    size: int  # number of processes

    def micro_batches(self, count: int) -> range:
        """The micro-batches, of 0..count-1 of a step, that this process computes. The ranges of all processes ascend
        with the rank and share none."""

    def sum_tree(self, tree: TreeSum) -> Tensor:
        """The sum over the micro-batches of all processes, each of which has added its own to its tree. Its bytes are
        the same everywhere, and the same as if one process had added all."""

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in at least one process."""

    def any_on_device(self, flag: Tensor) -> Tensor:
        """As `any`, for a 0-d tensor that is positive where it is set, without waiting for the device."""

    def gather(self, rows: list[T]) -> list[T]:
        """The rows of all processes, in the order of their ranks."""


class SingleProcess:
    """The world of a run in one process. Satisfies `World`."""

    rank = 0
    size = 1

    def micro_batches(self, count: int) -> range:
        return range(count)

    def sum_tree(self, tree: TreeSum) -> Tensor:
        return tree.total()

    def any(self, flag: bool) -> bool:
        return flag

    def any_on_device(self, flag: Tensor) -> Tensor:
        return flag

    def gather(self, rows: list[T]) -> list[T]:
        return rows
