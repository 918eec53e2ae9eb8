from __future__ import annotations

from lorasmith.reading.fold import curves_of
from lorasmith.runs.events import Event
from lorasmith.ui.measures import Measure, measures_of
from tests.ui.made_runs import begun, evaluated, stepped


def measured(*events: Event, is_going_on: bool = False) -> dict[str, Measure]:
    return measures_of(curves_of(events), is_going_on=is_going_on)


def test_all_of_them_in_their_order() -> None:
    assert list(measured()) == ["total", "average", "visual", "semantic", "color", "validation"]


def test_the_total_in_numbers() -> None:
    found = measured(begun(20), *stepped(1, 20))
    total, average = found["total"], found["average"]
    assert (total.first, total.newest, total.newest_step, total.points) == (0.999, 0.98, 20, 20)
    assert (total.lowest, total.lowest_step, total.trend) == (0.98, 20, "falling")
    assert average.newest is not None and abs(average.newest - (0.98 + 0.981 + 0.982 + 0.983) / 4) < 1e-12
    assert total.control is None and total.unavailable == ""


def test_what_was_measured_now_and_then() -> None:
    found = measured(
        begun(20),
        evaluated(0, is_control=True, visual=0.6),
        *stepped(1, 20),
        evaluated(10, visual=0.4, validation={"loss": 0.3, "standard_error": 0.02, "is_held_out": True}),
        evaluated(20, visual=0.5, validation={"loss": 0.2, "standard_error": 0.01, "is_held_out": True}),
    )
    visual, validation = found["visual"], found["validation"]
    assert (visual.first, visual.newest, visual.lowest, visual.lowest_step) == (0.4, 0.5, 0.4, 10)
    assert (visual.control, visual.trend) == (0.6, "too_few")
    assert (validation.newest, validation.standard_error, validation.is_held_out) == (0.2, 0.01, True)


def test_no_number_has_a_reason() -> None:
    told = measured(begun(20), *stepped(1, 5), evaluated(5, visual=0.5, unavailable={"semantic": "no_clip"}))
    assert (told["semantic"].newest, told["semantic"].unavailable) == (None, "no_clip")
    assert told["visual"].unavailable == ""
    assert told["color"].unavailable == "not_measured"
    assert measured(begun(20), is_going_on=True)["color"].unavailable == "not_yet"
    assert measured()["total"].unavailable == "not_yet"


def test_a_control_alone_is_shown_too() -> None:
    found = measured(begun(20), evaluated(0, is_control=True, color=0.7), is_going_on=True)
    assert (found["color"].control, found["color"].newest, found["color"].unavailable) == (0.7, None, "not_yet")
