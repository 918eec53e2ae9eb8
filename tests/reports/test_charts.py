from __future__ import annotations

import random
from pathlib import Path

import pytest

from lorasmith.reading.summary import summary_of
from lorasmith.reports.charts import Line, four_charts, more_charts, padded, spread, thinned, ticks, whole
from tests.reading.made_up import finished, started


def test_the_four_charts_and_their_controls(tmp_path: Path) -> None:
    total, visual, semantic, color = four_charts(summary_of(finished(tmp_path), []))
    assert [line.kind for line in total.lines] == ["current", "average", "validation"]
    assert total.control == 0.182  # of the validation loss
    assert (visual.control, semantic.control, color.control) == (0.6, 0.5, 0.7)
    assert visual.lines[0].steps == (75, 150, 225, 300)
    assert visual.best_step == 150
    assert total.bounds()[1] >= 0.182


def test_an_empty_chart_has_its_reason(tmp_path: Path) -> None:
    missing = summary_of(finished(tmp_path, unavailable={"semantic": "no_clip_model"}), [])
    assert four_charts(missing)[2].reason == "no_clip_model"
    nothing = summary_of([started(tmp_path, 9)], [])
    assert [chart.reason for chart in four_charts(nothing)] == ["not_stepped", *["not_evaluated"] * 3]
    assert all(chart.is_empty for chart in (*four_charts(nothing), *more_charts(nothing)))
    assert four_charts(nothing)[0].bounds() == (0.0, 1.0)


def test_validation_on_trained_pictures_is_called_so(tmp_path: Path) -> None:
    chart = more_charts(summary_of(finished(tmp_path, is_held_out=False), []))[0]
    assert chart.title == chart.word_of(chart.lines[0]) == "validation_on_trained"
    assert more_charts(summary_of(finished(tmp_path), []))[0].title == "validation"


def test_a_long_line_gets_short_and_keeps_its_peaks() -> None:
    noise = random.Random(3)
    values = [noise.random() for _ in range(100_000)]
    values[77_777] = 9.0
    line = Line("current", tuple(range(100_000)), tuple(values))
    short = thinned(line, 200)
    assert len(short.steps) <= 402
    assert max(short.values) == 9.0 and min(short.values) == min(values)
    assert (short.steps[0], short.steps[-1]) == (0, 99_999)
    assert list(short.steps) == sorted(set(short.steps))
    few = Line("current", (1, 2), (1.0, 2.0))
    assert thinned(few, 200) is few


@pytest.mark.parametrize(("low", "high"), [(0, 300), (0.07, 0.21), (0, 1), (1e-9, 2e-9), (-3, 7), (0, 99_999)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high, 5)
    assert 2 <= len(found) <= 6
    assert all(low <= one <= high * (1 + 1e-9) for one in found)
    assert ticks(1.0, 1.0, 5) == (1.0,)
    assert whole([0.5, 1.0, 1.2]) == (0, 1)


def test_bounds_have_air_and_outliers_are_known() -> None:
    assert padded(0.0, 1.0) == (0.0, 1.06)
    assert padded(0.5, 0.5) == (0.45, 0.55)
    assert spread([*range(100), 10_000], 0.98) == 98


def test_a_line_is_cut_where_its_pictures_changed() -> None:
    line = Line("validation", (1, 2, 3, 4), (5.0, 6.0, 7.0, 8.0), (0.1, 0.2, 0.3, 0.4), (3.0,))
    assert [(one.steps, one.values, one.errors) for one in line.stretches()] == [
        ((1, 2), (5.0, 6.0), (0.1, 0.2)),
        ((3, 4), (7.0, 8.0), (0.3, 0.4)),
    ]
    assert [one.steps for one in Line("lr", (1, 2), (0.0, 0.0)).stretches()] == [(1, 2)]
