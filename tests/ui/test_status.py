from __future__ import annotations

from dataclasses import replace

import pytest

from lorasmith.messages import LANGUAGES
from lorasmith.ui.layout import cells
from lorasmith.ui.status import Progress, bar, clock, pace, speed, status_line
from lorasmith.ui.translator import Translator

PROGRESS = Progress(step=120, stop_at=500, loss=0.12345, average_loss=0.2, seconds_per_step=1.5)


def test_everything_is_in_a_wide_line() -> None:
    line = status_line(Translator("en"), PROGRESS, width=120, only_ascii=True)
    numbers = "120/500  loss 0.1235  average 0.2000  1.50 s/step  left 0:09:30"
    assert line == "#" * 9 + "-" * 31 + " " + numbers
    assert status_line(Translator("en"), PROGRESS, width=None, only_ascii=True) == numbers


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_line_fits_any_width_and_always_says_the_step(language: str) -> None:
    words = Translator(language)
    for width in range(10, 130):
        line = status_line(words, PROGRESS, width=width, only_ascii=False)
        assert cells(line) <= width
        assert "120/500" in line


def test_the_time_left_outlives_the_average_and_the_speed() -> None:
    assert status_line(Translator("en"), PROGRESS, width=35, only_ascii=True) == "120/500  loss 0.1235  left 0:09:30"


def test_a_bar_is_full_only_at_the_end() -> None:
    assert bar(0.999, 10, only_ascii=True) == "#########-"
    assert bar(1.0, 10, only_ascii=True) == "##########"
    assert bar(0.0, 3, only_ascii=False) == "───"


def test_times_and_speeds() -> None:
    assert clock(3723.4) == "1:02:03"
    words = Translator("en")
    assert speed(words, 2.0) == "2.00 s/step"
    assert speed(words, 0.25) == "4.00 steps/s"
    assert speed(words, 0.0) == "- s/step"


def test_the_pace_is_the_first_to_go() -> None:
    words = Translator("en")
    progress = replace(PROGRESS, pace=pace(words, 0.4, 2e11, None))
    assert "0.4 pictures/s, 0.2 TFLOP/s" in status_line(words, progress, width=None, only_ascii=True)
    for width in range(60, 140):
        line = status_line(words, progress, width=width, only_ascii=True)
        assert cells(line) <= width
        assert "1.50 s/step" in line or "pictures/s" not in line
