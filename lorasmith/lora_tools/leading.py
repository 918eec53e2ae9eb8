"""The largest singular values of a matrix and their vectors, without the others.

A space that grows block by block (block Lanczos) holds the largest first. Before it grows, what a larger one would add
to the sum of squares is estimated from how the newest block is coupled to what is missing; where the estimate is small
beside what the product leaves out anyway, the space is large enough. The first block is drawn with a fixed seed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

SPARE = 8
"""More vectors in a block than values asked for: a value that occurs as often as a block is wide is found as often."""
SHARE = 2
"""The space has at most this part of the rows; beyond it a whole decomposition costs no more."""
BLOCKS = 8
"""Blocks that the space must be able to hold: fewer rarely suffice, and what they cost is lost."""
TOLERANCE = 1e-4
"""The share of the squares left out that may be missing: by half of it the error may exceed the smallest."""
ROUNDING = 1e-13
"""The share of all squares that is rounding."""


class Leading(NamedTuple):
    """Singular values, which fall, and their vectors."""

    left: Matrix  # (rows, count)
    values: Matrix
    right: Matrix  # (count, columns)


def leading(matrix: Matrix, count: int, whole: float) -> Leading | None:
    """The `count` largest singular values; None where they would not be found much sooner than all of them.

    Args:
        whole: the sum of the squares of all.
    """
    if matrix.shape[0] > matrix.shape[1]:
        found = leading(matrix.T, count, whole)
        return None if found is None else Leading(found.right.T, found.values, found.left.T)
    vectors = _vectors(matrix, count, whole)
    if vectors is None:
        return None
    # What the matrix is in the space of the vectors, decomposed exactly.
    right, core = np.linalg.qr(matrix.T @ vectors)
    turned, values, inner = np.linalg.svd(core.T)
    return Leading(vectors @ turned, values, inner @ right.T)


def _vectors(matrix: Matrix, count: int, whole: float) -> Matrix | None:
    """(rows, count), orthonormal, of the space of the largest values."""
    rows, columns = matrix.shape
    block, most = count + SPARE, rows // SHARE
    if block * BLOCKS > most:
        return None
    basis, seen = np.empty((rows, most), order="F"), np.empty((columns, most), order="F")
    inner = np.empty((most, most))
    newest = np.linalg.qr(np.random.default_rng(0).standard_normal((rows, block)))[0]
    for start in range(0, most - block + 1, block):
        end, new = start + block, slice(start, start + block)
        basis[:, new], seen[:, new] = newest, matrix.T @ newest
        inner[:end, new] = seen[:, :end].T @ seen[:, new]
        inner[new, :end] = inner[:end, new].T
        newest, coupling = _beside(matrix @ seen[:, new], basis[:, :end])
        squares, turned = np.linalg.eigh(inner[:end, :end])
        squares, turned = squares[::-1], turned[:, ::-1]
        left_out = whole - float(np.sum(squares[:count]))
        beyond = float(np.linalg.eigvalsh(inner[new, new])[-1])
        missing = _missing(squares, coupling @ turned[new], count, beyond)
        if min(missing, left_out) <= TOLERANCE * max(left_out, 0) + ROUNDING * whole:
            return np.linalg.qr(basis[:, :end] @ turned[:, :count])[0]
    return None


def _beside(block: Matrix, basis: Matrix) -> tuple[Matrix, Matrix]:
    """An orthonormal basis of what a block has outside of `basis`, and the block's part there in its terms.

    Done twice: of columns that lie in `basis` already, the first time leaves rounding in every direction.
    """
    first, core = np.linalg.qr(block - basis @ (basis.T @ block))
    second, turn = np.linalg.qr(first - basis @ (basis.T @ first))
    return second, turn @ core


def _missing(squares: Matrix, coupling: Matrix, count: int, beyond: float) -> float:
    """The estimate of what the `count` largest squares lack in sum. Infinite where the newest block still has as much.

    With G = [[S, C'], [C, B]] in and outside of the space: G is at most [[S + C'C / t, 0], [0, B + t]] for any t > 0.
    Where t is the least of the squares less what is in B, the largest eigenvalues of the first part bound those of G.
    In place of B, whose largest eigenvalue is not known, its newest known neighbour counts.
    """
    distance = float(squares[count - 1]) - beyond
    if distance <= 0:
        return np.inf
    raised = np.linalg.eigvalsh(np.diag(squares) + coupling.T @ coupling / distance)
    return float(np.sum(raised[-count:]) - np.sum(squares[:count]))
