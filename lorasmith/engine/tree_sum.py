"""Sums of gradients in one fixed order, whatever order they arrive in."""

from collections.abc import Mapping

from torch import Tensor


class TreeSum:
    """Adds the flat gradients of micro-batches 0..count-1 along a binary tree over their numbers.

    Floating-point addition is not associative: with the tree fixed, the bytes of the sum do not depend on the order of
    computing, nor on how many processes share it. Leaves pair up as (0, 1), (2, 3), …, pairs likewise; where a node has
    no right neighbour it rises as it is.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._nodes: dict[tuple[int, int], Tensor] = {}  # (level, index) -> sum of its leaves

    def add(self, micro: int, gradient: Tensor) -> None:
        """Takes over `gradient`: the caller must not write to it afterwards."""
        self._add(0, micro, gradient)

    def add_partial(self, nodes: Mapping[tuple[int, int], Tensor]) -> None:
        """Takes over the `partial` sums of another tree of the same count that holds other micro-batches."""
        for (level, index), gradient in nodes.items():
            self._add(level, index, gradient)

    def partial(self) -> dict[tuple[int, int], Tensor]:
        """The sums that still wait for their neighbour, by level (0: a single micro-batch) and number in it."""
        return dict(self._nodes)

    def total(self) -> Tensor:
        """The sum, once every micro-batch was added."""
        assert len(self._nodes) == 1, f"{len(self._nodes)} partial sums: micro-batches are missing"
        return next(iter(self._nodes.values()))

    def _add(self, level: int, index: int, gradient: Tensor) -> None:
        while self._width(level) > 1:
            sibling = index ^ 1
            if sibling < self._width(level):  # else the last of an odd row, which rises alone
                other = self._nodes.pop((level, sibling), None)
                if other is None:
                    break
                gradient = gradient.add_(other) if index < sibling else other.add_(gradient)
            level, index = level + 1, index // 2
        self._nodes[level, index] = gradient

    def _width(self, level: int) -> int:
        """Nodes in a row: ceil(count / 2**level)."""
        return (self.count + (1 << level) - 1) >> level
