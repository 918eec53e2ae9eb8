from __future__ import annotations

from lorasmith.reading.pace import Pace


def test_the_pace_is_by_the_clock_so_saving_counts() -> None:
    pace = Pace()
    assert pace.seconds_per_step == 0
    pace.add(1, 100.0, 0.5)
    assert pace.seconds_per_step == 0.5
    pace.add(2, 103.0, 0.5)
    assert pace.seconds_per_step == 3.0
    for number in range(3, 200):
        pace.add(number, 103.0 + number, 0.5)
    assert pace.seconds_per_step == 1.0  # what was long ago is forgotten


def test_a_clock_that_is_set_back_gives_no_negative_time() -> None:
    pace = Pace()
    pace.add(1, 100.0, 0.5)
    pace.add(2, 50.0, 0.5)
    assert pace.seconds_per_step == 0.0
