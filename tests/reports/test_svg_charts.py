from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lorasmith.messages import LANGUAGES
from lorasmith.reading.summary import RunSummary, summary_of
from lorasmith.reports.charts import Chart, Line, four_charts, more_charts
from lorasmith.reports.svg_charts import HEIGHT, MAX_POINTS, WIDTH, chart_figure
from tests.reading.made_up import finished
from tests.reports.page import parsed


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_chart_is_drawn_inside_its_picture(summary: RunSummary, language: str) -> None:
    for chart in (*four_charts(summary), *more_charts(summary)):
        page = parsed(chart_figure(chart, language))
        assert len(page.all("polyline")) == len(chart.lines)
        assert len([one for one in page.all("line") if one.get("class") == "control"]) == (chart.control is not None)
        for line in page.all("polyline"):
            places = [tuple(map(float, pair.split(","))) for pair in line["points"].split()]
            assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)
            assert len(places) <= 2 * MAX_POINTS + 2


def test_values_are_told_where_the_pointer_rests(summary: RunSummary) -> None:
    page = parsed(chart_figure(more_charts(summary)[0], "en"))
    assert "step 150: 0.149 ± 0.013" in page.text
    assert len([one for one in page.all("line") if one.get("class") == "error validation"]) == 4 * 3


def test_gaps_are_told_below_a_chart(tmp_path: Path) -> None:
    events = finished(tmp_path)
    number, last = next(
        (n, one) for n, one in enumerate(events) if getattr(one, "step", 0) == 300 and hasattr(one, "color")
    )
    events[number] = replace(last, color=None, unavailable={"color": "not_finite"})  # type: ignore[call-arg]
    text = parsed(chart_figure(four_charts(summary_of(events, []))[3], "en")).text
    assert "N/A at step 300: The model returned numbers" in text


def test_one_point_and_a_flat_curve_are_drawn_and_an_outlier_does_not_flatten_the_rest() -> None:
    chart = Chart("total", (Line("current", (1,), (0.5,)),), None, "", (), 1, None)
    assert len(parsed(chart_figure(chart, "en")).all("circle")) == 1
    values = (*([0.1, 0.2] * 50), 90.0)
    chart = Chart("total", (Line("current", tuple(range(1, 102)), values),), None, "", (), 101, None)
    heights = [
        float(one.split(",")[1]) for one in parsed(chart_figure(chart, "en")).all("polyline")[0]["points"].split()
    ]
    assert max(heights[:100]) - min(heights[:100]) > HEIGHT / 3
