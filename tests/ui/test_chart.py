from __future__ import annotations

import pytest

from lorasmith.ui.chart import chart
from lorasmith.ui.layout import cells

FALLING = [(step, 1.0 - step / 100) for step in range(1, 101)]


def test_in_ascii_it_falls_from_left_to_right() -> None:
    lines = chart(FALLING, width=31, only_ascii=True)
    assert lines == [
        "   0.9700 |***",
        "          |   *****",
        "          |        ****",
        "          |            *****",
        "   0.0200 |                 ***",
        "          +--------------------",
        "           1                100",
    ]
    assert all(line.isascii() for line in lines)


def test_in_braille_it_falls_too_and_has_no_hole() -> None:
    lines = chart(FALLING, width=31, only_ascii=False)[:5]
    body = [line.partition("|")[2].ljust(20) for line in lines]
    tops = [next(row for row, line in enumerate(body) if line[column] != " ") for column in range(20)]
    assert tops == sorted(tops) and tops[0] == 0 and tops[-1] == 4


def test_a_leap_is_one_line() -> None:
    lines = chart([(1, 0.0), (2, 1.0)] * 1, width=31, only_ascii=False)[:5]
    assert all(line.partition("|")[2].strip() for line in lines)


@pytest.mark.parametrize("only_ascii", [True, False])
@pytest.mark.parametrize("width", [20, 33, 80])
@pytest.mark.parametrize(
    "points", [FALLING, [(7, 0.5)], [(1, 0.5), (2, 0.5)], [(1, 1e9), (3, 1e-9)], [(1, 0.0), (100000, 5.0)]]
)
def test_it_fits_whatever_it_draws(only_ascii: bool, width: int, points: list[tuple[int, float]]) -> None:
    lines = chart(points, width=width, only_ascii=only_ascii)
    assert len(lines) == 7
    assert all(cells(line) <= width for line in lines)
    assert str(points[0][0]) in lines[-1] and str(points[-1][0]) in lines[-1]


def test_a_mean_stands_for_the_steps_of_a_column() -> None:
    noisy = [(step, 1.0 if step % 2 else 0.0) for step in range(1, 2001)]
    lines = chart(noisy, width=31, only_ascii=True)
    assert [line.split() for line in lines[:5]] == [["|"], ["|"], ["0.5000", "|" + "*" * 20], ["|"], ["|"]]


def test_noise_does_not_fill_it() -> None:
    """As in the report: the y axis is at least 1 % of the values."""
    lines = chart([(step, 1.0 + 0.0001 * (step % 2)) for step in range(1, 11)], width=31, only_ascii=True)
    assert [line.split("|")[1] for line in lines[:5]] == ["", "", "*" * 20, "", ""]
    assert (lines[0].split()[0], lines[4].split()[0]) == ("1.0051", "0.9950")


def test_nothing_is_drawn_of_nothing_or_where_there_is_no_room() -> None:
    assert chart([], width=80, only_ascii=True) == []
    assert chart(FALLING, width=15, only_ascii=True) == []
