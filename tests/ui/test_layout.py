from __future__ import annotations

import pytest

from lorasmith.ui.layout import cells, two_columns, wrapped


def test_a_wide_sign_takes_two_cells() -> None:
    assert (cells("abc"), cells("步數"), cells("步 a")) == (3, 4, 4)


@pytest.mark.parametrize("width", [20, 21, 33, 80])
@pytest.mark.parametrize(
    "text", ["some words that do not fit in one line at all", "訓練步數：正好這麼多步；之後再加 --steps 這麼多步。"]
)
def test_lines_fit_and_nothing_is_lost(text: str, width: int) -> None:
    lines = wrapped(text, width)
    assert max(cells(line) for line in lines) <= width
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert not any(line.startswith(("，", "。", "：", "；")) for line in lines)


def test_a_word_that_is_too_long_stays_whole() -> None:
    assert wrapped("a bbbbbbbbbbbb c", 5) == ["a", "bbbbbbbbbbbb", "c"]


def test_a_long_term_has_a_line_of_its_own() -> None:
    assert two_columns([("--a", "one two"), ("--a-long-term", "x")], left=10, width=15) == [
        "  --a     one two",
        "  --a-long-term",
        "          x",
    ]
