"""Rows of a table in which every pair of choices occurs, for options too many to try all together."""

from collections.abc import Sequence
from itertools import combinations


def pairwise(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Rows of one choice from 0 to size - 1 for each size, in which any two choices of two columns meet.

    Greedy: each row begins with a pair that has not met, and each further column takes the choice with the most pairs
    that have not. The same sizes give the same rows.
    """
    left = {
        ((first, a), (second, b))
        for first, second in combinations(range(len(sizes)), 2)
        for a in range(sizes[first])
        for b in range(sizes[second])
    }
    rows = []
    while left:
        chosen = dict(min(left))
        for column, size in enumerate(sizes):
            if column not in chosen:
                chosen[column] = max(range(size), key=lambda choice: (_new(left, chosen, column, choice), -choice))
        row = tuple(chosen[column] for column in range(len(sizes)))
        left -= set(combinations(enumerate(row), 2))
        rows.append(row)
    return rows


def _new(left: set[tuple[tuple[int, int], ...]], chosen: dict[int, int], column: int, choice: int) -> int:
    """The number of pairs with columns chosen before that would meet for the first time."""
    own = (column, choice)
    return sum(tuple(sorted((own, other))) in left for other in chosen.items())
