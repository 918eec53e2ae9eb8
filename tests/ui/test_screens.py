from __future__ import annotations

import io
import os
from functools import partial

import pytest

from lorasmith.ui.screens import LINE_SECONDS, LastingScreen, LiveScreen, PlainScreen, open_screen


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_file_gets_a_line_every_tenth_or_every_ten_seconds() -> None:
    out, clock = io.StringIO(), Clock()
    screen = PlainScreen(out, now=clock)
    for number in range(1, 101):
        screen.status(partial("{0} {1}".format, number), number / 100)
    assert out.getvalue().split("\n") == [*(f"{number} None" for number in range(10, 101, 10)), ""]
    clock.now += LINE_SECONDS
    screen.status(lambda *_: "late", 1.0)
    screen.tick()
    screen.close()
    assert out.getvalue().endswith("late\n")
    assert "\r" not in out.getvalue() and "\x1b" not in out.getvalue()


def test_lines_stay_above_the_moving_one_and_it_goes_away() -> None:
    out, clock = Terminal(), Clock()
    screen = LiveScreen(out, now=clock)
    clock.now = 1.0
    screen.status(lambda width, only_ascii: "moving", 0.1)
    screen.line("a line that stays")
    screen.close()
    screen.line("the end", "good")
    text = out.getvalue()
    assert text.index("moving") < text.index("a line that stays") < text.index("the end")
    assert "\x1b[2K" in text  # erased


def test_it_is_drawn_at_most_ten_times_a_second() -> None:
    out, clock = Terminal(), Clock()
    screen = LiveScreen(out, now=clock)
    asked = []

    def compose(width: int | None, only_ascii: bool) -> str:
        asked.append(width)
        return "x"

    clock.now = 1.0
    screen.status(compose, 0.0)
    drawn = len(asked)
    for _ in range(100):
        screen.status(compose, 0.0)
    assert len(asked) == drawn
    clock.now += 0.2
    screen.tick()
    assert len(asked) > drawn
    screen.close()


def test_no_colour_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    plain, coloured = Terminal(), Terminal()
    LiveScreen(plain).line("x", "bad")
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm")
    LiveScreen(coloured).line("x", "bad")
    assert "\x1b[31m" in coloured.getvalue()
    assert "\x1b[31m" not in plain.getvalue()


def test_a_reader_that_leaves_is_not_noticed() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as out:
        screen = LastingScreen(PlainScreen(out))
        os.close(reading)
        for _ in range(3):
            screen.line("nobody is there")
        screen.status(lambda *_: "x", 1.0)
        screen.tick()
        screen.close()
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)


@pytest.mark.parametrize(("term", "moves"), [("xterm", True), ("dumb", False)])
def test_the_screen_fits_where_it_leads(term: str, moves: bool) -> None:
    out = Terminal()
    screen = open_screen(out, {"TERM": term})
    screen.status(lambda *_: "x", 1.0)
    screen.close()
    assert ("\x1b" in out.getvalue()) is moves
