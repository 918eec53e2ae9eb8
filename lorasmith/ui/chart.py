"""Draws a curve with characters: braille dots, or stars where only ASCII shows. Uses no colours and no sentences."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from lorasmith.reports.charts import with_least_span

HEIGHT = 5
LABEL = 9  # cells for the numbers at the left
MIN_COLUMNS = 8
# The dots of a braille cell, two columns of four, as bits.
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
EMPTY_BRAILLE = 0x2800


def chart(points: Sequence[tuple[int, float]], *, width: int, only_ascii: bool, height: int = HEIGHT) -> list[str]:
    """Draws (step, value) points, in order of steps, as lines of at most `width` cells: the curve, the ends of the y
    axis beside it (the highest and the lowest value, unless they are nearly equal), the first and the last step below.
    Steps that share a column are drawn as their mean. Returns no line where there is no point.
    """
    columns = width - LABEL - 2
    if not points or columns < MIN_COLUMNS:
        return []
    across, down = (1, 1) if only_ascii else (2, 4)
    values = _resampled(points, columns * across)
    lowest, highest = min(values), max(values)
    if highest > lowest:
        lowest, highest = with_least_span(lowest, highest)
    rows = [_row(value, lowest, highest, height * down) for value in values]
    body = _stars(rows, height) if only_ascii else _braille(rows, height)
    labels = ["" for _ in range(height)]
    if highest == lowest:
        labels[height // 2] = _number(highest)
    else:
        labels[0], labels[-1] = _number(highest), _number(lowest)
    lines = [f"{label:>{LABEL}} |{line}".rstrip() for label, line in zip(labels, body, strict=True)]
    first, last = str(points[0][0]), str(points[-1][0])
    axis = " " * (LABEL + 1) + "+" + "-" * columns
    below = first if first == last else first + last.rjust(columns - len(first))
    return [*lines, axis, " " * (LABEL + 2) + below]


def _resampled(points: Sequence[tuple[int, float]], columns: int) -> list[float]:
    """The value of each column: the mean of its steps, or interpolated between its neighbours."""
    first, span = points[0][0], points[-1][0] - points[0][0] + 1
    sums, counts = [0.0] * columns, [0] * columns
    for step, value in points:
        # With more columns than steps, the last step lies on the last column; else each column has as many steps.
        at = (step - first) * (columns - 1) // max(1, span - 1) if span < columns else (step - first) * columns // span
        sums[at] += value
        counts[at] += 1
    known = [at for at in range(columns) if counts[at]]
    means = {at: sums[at] / counts[at] for at in known}
    values = [means[known[-1]]] * columns  # a single step is a level line
    for left, right in itertools.pairwise(known):
        for at in range(left, right + 1):
            share = (at - left) / (right - left)
            values[at] = means[left] * (1 - share) + means[right] * share
    return values


def _row(value: float, lowest: float, highest: float, rows: int) -> int:
    """The row of a value; 0 is the top."""
    if highest == lowest:
        return rows // 2
    return round((highest - value) / (highest - lowest) * (rows - 1))


def _stars(rows: Sequence[int], height: int) -> list[str]:
    return ["".join("*" if row == line else " " for row in rows) for line in range(height)]


def _braille(rows: Sequence[int], height: int) -> list[str]:
    """Joins each dot to the dot before it, so that a steep curve has no holes."""
    cells = [[EMPTY_BRAILLE] * ((len(rows) + 1) // 2) for _ in range(height)]
    before = rows[0]
    for column, row in enumerate(rows):
        low, high = sorted((before, row))
        for dot in {row, *range(low + 1, high)}:
            cells[dot // 4][column // 2] |= DOTS[column % 2][dot % 4]
        before = row
    # Not every font has the empty cell, so a blank stands for it.
    return ["".join(" " if cell == EMPTY_BRAILLE else chr(cell) for cell in line) for line in cells]


def _number(value: float) -> str:
    """A number in at most LABEL cells."""
    text = f"{value:.4f}"
    return text if len(text) <= LABEL else f"{value:.2e}"
