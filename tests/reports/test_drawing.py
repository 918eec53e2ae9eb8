from __future__ import annotations

import io
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib.figure import Figure
from PIL import Image

from lorasmith.messages import LANGUAGES, tr
from lorasmith.reading.summary import RunSummary, summary_of
from lorasmith.reports import drawing
from lorasmith.reports.charts import Chart, Series, four_charts, more_charts
from lorasmith.reports.drawing import COLOURS, PNG_DPI, PNG_INCHES, SVG_SIZE, draw_png, draw_svg
from lorasmith.reports.reasons import why_not
from tests.reading.made_up import finished, started, stepped
from tests.reports.html import parsed

WIDTH, HEIGHT = SVG_SIZE
Place = tuple[float, float]


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def lines(svg: str, variable: str) -> list[list[Place]]:
    """The places of every line in a colour of the page."""
    found = [one["d"] for one in parsed(svg).all("path") if f"stroke: var(--{variable})" in one.get("style", "")]
    places = [[(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", line)] for line in found]
    return [line for line in places if max(x for x, _ in line) > 10]  # the others are markers, which lie around 0


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_png_is_a_picture_with_something_on_it(
    summary: RunSummary, monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # it looks for a display: importing it fails here
    picture = opened(draw_png(summary, language)).convert("RGB")
    assert picture.size == tuple(round(side * PNG_DPI) for side in PNG_INCHES)
    found = picture.getcolors(1 << 24)
    assert found is not None
    colours = {"#{:02x}{:02x}{:02x}".format(*colour) for _, colour in found if isinstance(colour, tuple)}
    assert {COLOURS["line"], COLOURS["faint"], COLOURS["validation"], COLOURS["baseline"]} <= colours


def test_a_single_step_has_a_picture(tmp_path: Path) -> None:
    assert opened(draw_png(summary_of([started(tmp_path, 9), *stepped([1])], []), "en")).size[0] > 1000


@pytest.mark.parametrize("code", ["no_clip_model", "not_finite"])
def test_what_could_not_be_measured_is_said_in_its_panel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig

    def kept(self: Figure, *arguments: Any, **options: Any) -> None:
        drawn.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", kept)
    draw_png(summary_of(finished(tmp_path, unavailable={"semantic": code}), []), "en")
    panels = {axes.get_title(loc="left"): [one.get_text() for one in axes.texts] for axes in drawn[0].axes}
    (said,) = panels.pop(tr("en", "chart.title.semantic"))
    assert said.startswith("N/A") and why_not("en", code) in " ".join(said.split())
    assert set(map(tuple, panels.values())) == {()}, "the others have their curves and nothing to say"


def test_the_same_run_gives_the_same_bytes_whatever_a_matplotlibrc_says(
    summary: RunSummary, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn() -> list[bytes]:
        return [draw_png(summary, "en"), draw_svg(four_charts(summary)[0], "en").encode()]

    first = drawn()
    monkeypatch.setitem(matplotlib.rcParams, "axes.facecolor", "black")
    monkeypatch.setitem(matplotlib.rcParams, "axes.linewidth", 7.0)
    assert drawn() == first


def test_chinese_is_written_where_a_font_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "chinese_fonts", lambda: ["No Such Font", "DejaVu Sans"])
    assert drawing.font_for("zh-TW") == "DejaVu Sans"
    monkeypatch.setattr(drawing, "chinese_fonts", lambda: ["No Such Font"])
    assert drawing.font_for("zh-TW") is None
    assert drawing.font_for("en") == ""
    monkeypatch.undo()
    assert "Microsoft JhengHei" in drawing.chinese_fonts()


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_svg_is_drawn_inside_its_picture_in_colours_of_the_page(summary: RunSummary, language: str) -> None:
    for chart in (*four_charts(summary), *more_charts(summary)):
        svg = draw_svg(chart, language)
        (head,) = parsed(svg).all("svg")
        assert head["aria-label"] == tr(language, f"chart.title.{chart.title}")
        assert not re.search('#[0-9a-f]{6}[;"]|font|<metadata|xmlns', svg)
        assert len(lines(svg, "baseline")) == (chart.baseline is not None)
        assert len(lines(svg, "best")) == (chart.best_step is not None)
        curves = [
            place for name in ("line", "faint", "validation", "baseline") for one in lines(svg, name) for place in one
        ]
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in curves) and curves


def test_points_have_error_bars_and_tell_their_values(summary: RunSummary) -> None:
    svg = draw_svg(more_charts(summary)[0], "en")
    assert "step 150: 0.149 ± 0.013" in parsed(svg).text
    upright = [line for line in lines(svg, "validation") if len({x for x, _ in line}) == 1]
    assert len(upright) == 4


def test_the_baseline_begins_at_step_0_with_a_mark(summary: RunSummary) -> None:
    svg = draw_svg(four_charts(summary)[1], "en")
    ((begin, _end),) = lines(svg, "baseline")
    marks = [one for one in parsed(svg).all("use") if "var(--baseline)" in one["style"]]
    assert [(float(one["x"]), float(one["y"])) for one in marks] == [begin]


def test_an_interruption_is_marked_on_the_axis(summary: RunSummary) -> None:
    chart = replace(four_charts(summary)[0], interruptions=(150,))
    mark = next(one for one in parsed(draw_svg(chart, "en")).all("use") if "var(--quiet)" in one["style"])
    ((best, _),) = [line for line in lines(draw_svg(chart, "en"), "best")]
    assert float(mark["x"]) == best[0]


def test_no_line_leads_to_values_of_other_pictures() -> None:
    series = Series("validation", (1, 2, 3, 4), (5.0, 6.0, 7.0, 8.0), breaks=(3,))
    assert len(lines(draw_svg(Chart("validation", "validation", (series,), 4), "en"), "validation")) == 2


def test_a_single_point_has_a_dot_and_an_outlier_leaves_the_rest_its_height() -> None:
    single = draw_svg(Chart("total", "total", (Series("current", (1,), (0.5,)),), 1), "en")
    assert len(parsed(single).all("use")) == 1
    values = (*([0.1, 0.2] * 50), 90.0)
    (line,) = lines(
        draw_svg(Chart("total", "total", (Series("current", tuple(range(1, 102)), values),), 101), "en"), "faint"
    )
    heights = [y for _, y in line[:90]]
    assert max(heights) - min(heights) > HEIGHT / 3


def test_a_long_curve_gets_short_and_keeps_its_peak() -> None:
    values = [0.5 + 0.1 * (number % 7) for number in range(100_000)]
    values[77_777] = 9.0
    svg = draw_svg(Chart("lr", "lr", (Series("lr", tuple(range(1, 100_001)), tuple(values)),), 100_000), "en")
    assert len(svg) < 150_000
    (line,) = lines(svg, "line")
    assert min(y for _, y in line) < 25 < HEIGHT / 2 < sorted(y for _, y in line)[1]


def test_the_numbers_on_an_axis_differ() -> None:
    for values in ((1e-4, 1e-4), (0.101, 0.1025), (0.994112, 0.994323), (-1.0, 1.0), (0.0, 0.0)):
        svg = draw_svg(Chart("lr", "lr", (Series("lr", (1, 2), values),), 2), "en")
        numbers = re.findall(r"text-anchor: end[^>]*>([^<]+)<", svg)
        assert len(numbers) == len(set(numbers)) >= 2, numbers
        assert any(number.startswith("-") for number in numbers) is (values[0] < 0)


@pytest.mark.parametrize("baseline", [None, 0.973301])
def test_noise_does_not_fill_a_chart(baseline: float | None) -> None:
    def height(*values: float) -> float:
        series = Series("validation", (1, 2, 3), values, errors=(1e-7,) * 3 if baseline else ())
        svg = draw_svg(Chart("validation", "validation", (series,), 3, baseline=baseline), "en")
        places = [y for line in lines(svg, "validation") for _, y in line]
        return max(places) - min(places)

    assert height(0.973298, 0.973302, 0.973299) < 1
    assert height(0.96, 0.98, 0.97) > HEIGHT / 2
