"""Draws charts with matplotlib: four of them as one PNG, and each alone as SVG for the page.

Both come out of `_draw_chart`. Lines differ by dash and marker too, so that they differ without colour.
Needs no display. The PNG is in English where no font for the reader's language is installed; the SVG has only numbers.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from lorasmith.libraries import importing_library
from lorasmith.messages import FALLBACK, tr
from lorasmith.reading.summary import RunSummary
from lorasmith.reports.charts import Chart, Series, four_charts, key_of, notes_of, reason_of_empty, with_least_span
from lorasmith.reports.translator import distinct, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PNG_INCHES, PNG_DPI = (13.0, 8.6), 120
PNG_AXES_POINTS = 190  # about the height of a panel
PNG_LEFT = 0.062  # left edge of the panels, as a share of the width: numbers such as 0.012025 fit beside them
SVG_SIZE = (440, 236)  # units of its coordinates
SVG_DPI = 72  # of matplotlib's SVG: an inch has 72 units
COLOURS = {
    "card": "#ffffff", "ink": "#1c2530", "quiet": "#5f6b78", "axis": "#c9d0d8", "grid": "#e9ecf0", "line": "#1f6fb2",
    "faint": "#a9c4de", "validation": "#bf5416", "baseline": "#7a4fb0", "best": "#23804a",
}  # fmt: skip
"""The page's variables of these names hold the same colours, and others in the dark."""

STYLES: dict[str, dict[str, Any]] = {
    "current": {"color": COLOURS["faint"], "linewidth": 0.9},
    "average": {"color": COLOURS["line"], "linewidth": 2.0},
    "measured": {"color": COLOURS["line"], "linewidth": 1.8, "marker": "o"},
    "validation": {"color": COLOURS["validation"], "linewidth": 1.8, "marker": "s"},
    "lr": {"color": COLOURS["line"], "linewidth": 1.8},
    "baseline": {"color": COLOURS["baseline"], "linewidth": 1.5, "linestyle": (0, (5, 3)), "marker": "D"},
    "best": {"color": COLOURS["best"], "linewidth": 1.4, "linestyle": (0, (1, 2))},
    "interrupted": {"color": COLOURS["quiet"], "linestyle": "", "marker": "^"},
}
STYLES["validation_on_trained"] = STYLES["validation"]
MARKER_SIZE = 5.0
CAP_SIZE = 3.0
TITLE = "title:"  # begins the id of what has a tooltip
SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
KEY_COLUMNS = 3
LINE_LENGTH = 45  # characters of a reason inside a panel


def draw_png(summary: RunSummary, language: str) -> bytes:
    """Draws the four charts as one PNG.

    Raises:
        InputError: matplotlib cannot be imported.
    """
    font = font_for(language)
    if font is None:
        language = FALLBACK
    with _new_figure({"font.family": [*([font] if font else []), "sans-serif"]}) as figure:
        figure.set_size_inches(PNG_INCHES)
        title = tr(language, "chart.head", done=summary.done, stop_at=summary.stop_at or 0)
        figure.text(PNG_LEFT, 0.962, title, fontsize=17, fontweight="bold", color=COLOURS["ink"], va="center")
        use = tr(language, f"chart.use.{summary.use.reason}", step=summary.use.step or 0)
        figure.text(PNG_LEFT, 0.927, use, fontsize=11.5, color=COLOURS["quiet"], va="center")
        charts = four_charts(summary)
        for row, pair in zip(figure.subplots(2, 2), (charts[:2], charts[2:]), strict=True):
            key_lines = max(-(-len(key_of(chart, language)) // KEY_COLUMNS) for chart in pair)
            for axes, chart in zip(row, pair, strict=True):
                _draw_panel(axes, chart, language, key_lines)
        figure.subplots_adjust(left=PNG_LEFT, right=0.985, top=0.81, bottom=0.065, wspace=0.13, hspace=0.42)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=PNG_DPI, metadata={"Software": "lorasmith"})
    return file.getvalue()


def draw_svg(chart: Chart, language: str) -> str:
    """Draws one chart as an `<svg>` element that takes its colours from the page.

    Raises:
        InputError: matplotlib cannot be imported.
    """
    settings = {"svg.fonttype": "none", "svg.hashsalt": chart.name, "path.simplify_threshold": 0.5}
    with _new_figure(settings) as figure:
        width, height = SVG_SIZE
        figure.set_size_inches(width / SVG_DPI, height / SVG_DPI)
        axes = figure.add_axes((46 / width, 28 / height, 1 - 58 / width, 1 - 38 / height))
        _draw_chart(axes, chart, language, font_size=11)
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="x")
        axes.tick_params(length=0)
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        file = io.StringIO()
        figure.savefig(file, format="svg")
    return _as_element(file.getvalue(), tr(language, f"chart.title.{chart.title}"))


@contextmanager
def _new_figure(settings: dict[str, Any]) -> Iterator[Figure]:
    """A figure that looks the same whatever the user's own matplotlibrc says."""
    with importing_library():
        from matplotlib import style
        from matplotlib.figure import Figure
    with style.context(["default", {"axes.unicode_minus": False, "text.parse_math": False, **settings}]):
        yield Figure(facecolor=COLOURS["card"])


def _draw_panel(axes: Axes, chart: Chart, language: str, key_lines: int) -> None:
    """A chart with its words, as the PNG has them; `key_lines` is the height of the key between title and chart."""
    height = 9 + 15 * key_lines  # points
    title = tr(language, f"chart.title.{chart.title}")
    axes.set_title(title, loc="left", fontsize=12.5, color=COLOURS["ink"], pad=height)
    if chart.is_empty:
        _draw_frame(axes, font_size=9.5)
        axes.set(xticks=[], yticks=[])
        reason = textwrap.fill(reason_of_empty(chart, language), LINE_LENGTH, break_on_hyphens=False)
        text = tr(language, "chart.not_available", reason=reason)
        axes.text(
            0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=11.5, color=COLOURS["quiet"]
        )
        return
    _draw_chart(axes, chart, language, font_size=9.5)
    axes.set_xlabel(tr(language, "chart.steps"), fontsize=9.5, color=COLOURS["quiet"])
    handles = [_key_sign(kind, text) for kind, text in key_of(chart, language)]
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(-0.012, 1 + (height - 3) / PNG_AXES_POINTS),
        ncols=KEY_COLUMNS, fontsize=9, labelcolor=COLOURS["ink"], frameon=False, handlelength=2.2, columnspacing=1.4,
        labelspacing=0.3, borderaxespad=0.2,
    )  # fmt: skip
    for number, note in enumerate(notes_of(chart, language)):
        axes.text(0.01, 0.02 + 0.05 * number, note, transform=axes.transAxes, fontsize=8.5, color=COLOURS["quiet"])


def _draw_chart(axes: Axes, chart: Chart, language: str, *, font_size: float) -> None:
    """A chart without its title and key."""
    _draw_frame(axes, font_size=font_size)
    axes.set_xlim(-0.015 * chart.last_step, 1.015 * chart.last_step)
    for series in chart.series:
        _draw_series(axes, series, language)
    if chart.baseline is not None:
        ends = ([0, chart.last_step], [chart.baseline] * 2)
        axes.plot(*ends, markevery=[0], markersize=MARKER_SIZE, clip_on=False, **STYLES["baseline"])
    bottom, top = axes.set_ylim(*_limits(chart, *axes.get_ylim()))
    places = [float(place) for place in axes.get_yticks() if bottom <= place <= top]
    axes.set_yticks(places, distinct(places))
    if chart.best_step is not None:
        axes.axvline(chart.best_step, **STYLES["best"])
    for step in chart.interruptions:
        axes.plot([step], [bottom], markersize=MARKER_SIZE + 1, clip_on=False, **STYLES["interrupted"])


def _limits(chart: Chart, bottom: float, top: float) -> tuple[float, float]:
    """The y axis: as matplotlib would have it, but without outliers, with air around a flat curve, not so fine that
    noise fills it, and with no negative part where no value is negative."""
    values = [value for series in chart.series for value in series.values]
    low, high = min(values, default=0.0), max(values, default=0.0)
    if low == high > 0 and chart.baseline is None and not any(series.errors for series in chart.series):
        return 0.9 * low, 1.1 * low
    bottom, top = with_least_span(bottom, chart.top or top)
    return max(bottom, 0.0) if low >= 0 else bottom, top


def _draw_frame(axes: Axes, *, font_size: float) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(COLOURS["axis"])
    axes.tick_params(color=COLOURS["axis"], labelcolor=COLOURS["quiet"], labelsize=font_size)
    axes.grid(visible=True, color=COLOURS["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def _draw_series(axes: Axes, series: Series, language: str) -> None:
    """A line, and where it has markers each of its points with error bar and tooltip."""
    style = dict(STYLES[series.kind])
    marker = style.pop("marker", "")
    for stretch in series.stretches():
        axes.plot(stretch.steps, stretch.values, **style)
    if not marker and len(series.steps) > 1:
        return
    errors = series.errors or (0.0,) * len(series.steps)
    for step, value, error in zip(series.steps, series.values, errors, strict=True):
        if error:
            axes.errorbar(step, value, yerr=error, fmt="none", color=style["color"], capsize=CAP_SIZE, elinewidth=1.3)
        (dot,) = axes.plot([step], [value], marker or "o", markersize=MARKER_SIZE, color=style["color"])
        dot.set_gid(TITLE + _tooltip(step, value, error, language))


def _tooltip(step: int, value: float, error: float, language: str) -> str:
    value_text = short(value, digits=4)
    if not error:
        return tr(language, "chart.at", step=step, value=value_text)
    return tr(language, "chart.at_with_error", step=step, value=value_text, error=short(error, digits=2))


def _key_sign(kind: str, text: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], label=text, markersize=MARKER_SIZE, **STYLES[kind])


def _as_element(svg: str, name: str) -> str:
    """matplotlib's SVG document as an element of a page: without declarations, metadata, fonts, names of groups and
    empty groups; with tooltips, and with the page's variables in place of colours."""
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        parent[:] = [child for child in parent if child.tag not in (f"{SVG}metadata", f"{SVG}style")]
    for node in reversed(list(root.iter())):
        _clean(node)
    root.attrib = {"viewBox": root.get("viewBox", ""), "role": "img", "aria-label": name}
    element = ElementTree.tostring(root, encoding="unicode")
    for variable, colour in COLOURS.items():
        element = element.replace(colour, f"var(--{variable})")
    return element


def _clean(node: ElementTree.Element) -> None:
    node.tag = node.tag.removeprefix(SVG)
    node[:] = [child for child in node if child.attrib or len(child) or child.text]
    node.text, node.tail = (node.text or "").strip() or None, None
    group = node.attrib.pop("id", "") if node.tag == "g" else ""
    if group.startswith(TITLE):
        title = ElementTree.Element("title")
        title.text = group.removeprefix(TITLE)
        node.insert(0, title)
    if node.tag == "text":
        node.attrib.pop("transform", None)  # a rotation by 0
        node.set("style", re.sub(r"font[^:]*: [^;]*; *", "", node.get("style", "")))
    if target := node.attrib.pop(XLINK + "href", ""):
        node.set("href", target)
    for attribute in {"d", "x", "y"} & node.attrib.keys():
        node.set(attribute, re.sub(r"(\.\d\d)\d+", r"\1", " ".join(node.attrib[attribute].split())))


def font_for(language: str) -> str | None:
    """A font with the characters of the language; "" where any has them, None where none is installed."""
    if language == FALLBACK:
        return ""
    with importing_library():
        from matplotlib.font_manager import fontManager
    installed = {entry.name for entry in fontManager.ttflist}
    return next((name for name in chinese_fonts() if name in installed), None)


def chinese_fonts() -> list[str]:
    """Fonts with Traditional Chinese as systems name them, the fittest first."""
    return Path(__file__).with_name("chinese_fonts.txt").read_text(encoding="utf-8").splitlines()
