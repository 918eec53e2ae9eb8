"""The report as one picture: four panels, drawn by matplotlib, which is imported when something is drawn.

Needs no display. Its words are English where no font for the reader's language is installed.
"""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from lorasmith.libraries import importing_library
from lorasmith.messages import FALLBACK, tr
from lorasmith.reading.summary import RunSummary
from lorasmith.reports.charts import Chart, Line, four_charts, spread
from lorasmith.reports.reasons import why_empty, why_not

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES = (13.0, 8.4)
DOTS_PER_INCH = 120
BACK, INK, QUIET, GRID = "#ffffff", "#1d2733", "#66727f", "#e6e9ed"
COLOURS = {"current": "#a9c3dc", "average": "#1f6fb2", "measured": "#1f6fb2", "validation": "#c2571a", "lr": "#1f6fb2"}
CONTROL = "#7a4fb0"
BEST = "#2e8b57"
LINE_LENGTH = 45  # signs of a reason inside a panel


def png_report(summary: RunSummary, language: str) -> bytes:
    """The picture's bytes.

    Raises:
        InputError: matplotlib cannot be imported.
    """
    with importing_library():
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    font = font_for(language)
    if font is None:
        language = FALLBACK
    settings = {"font.family": [*([font] if font else []), "sans-serif"], "axes.unicode_minus": False}
    with rc_context(settings):  # type: ignore[arg-type]
        figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, facecolor=BACK)
        FigureCanvasAgg(figure)
        _head(figure, summary, language)
        grid = figure.subplots(2, 2)
        for axes, chart in zip(grid.flat, four_charts(summary), strict=True):
            _panel(axes, chart, language)
        figure.subplots_adjust(left=0.065, right=0.98, top=0.855, bottom=0.075, wspace=0.16, hspace=0.34)
        held = io.BytesIO()
        figure.savefig(held, format="png", facecolor=BACK, metadata={"Software": "lorasmith"})
    return held.getvalue()


def _head(figure: Figure, summary: RunSummary, language: str) -> None:
    title = tr(language, "chart.head", done=summary.done, stop_at=summary.stop_at or 0)
    figure.text(0.065, 0.955, title, fontsize=17, fontweight="bold", color=INK, va="center")
    line = tr(language, f"chart.use.{summary.use.reason}", step=summary.use.step or 0)
    figure.text(0.065, 0.915, line, fontsize=11.5, color=QUIET, va="center")


def _panel(axes: Axes, chart: Chart, language: str) -> None:
    axes.set_facecolor(BACK)
    axes.set_title(tr(language, f"chart.title.{chart.title}"), loc="left", fontsize=12.5, color=INK, pad=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#c5ccd4")
    axes.tick_params(colors=QUIET, labelsize=9.5)
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(-0.01 * chart.last_step, 1.01 * chart.last_step)
    if chart.is_empty:
        _not_available(axes, chart, language)
        return
    for line in chart.lines:
        _draw(axes, line, tr(language, f"chart.{chart.word_of(line)}"))
    if chart.control is not None:
        axes.axhline(
            chart.control, color=CONTROL, linewidth=1.6, linestyle=(0, (5, 3)), label=_control(chart, language)
        )
    _keep_in_view(axes, chart)
    if chart.best_step is not None:
        label = tr(language, "chart.best", step=chart.best_step)
        axes.axvline(chart.best_step, color=BEST, linewidth=1.4, linestyle=(0, (1, 2)), label=label)
    axes.set_xlabel(tr(language, "chart.steps"), fontsize=9.5, color=QUIET)
    axes.legend(
        fontsize=9,
        labelcolor=INK,
        ncols=2,
        loc="best",
        handlelength=1.8,
        facecolor=BACK,
        edgecolor=BACK,
        framealpha=0.85,
    )
    if chart.gaps:
        _note(axes, chart, language)


def _draw(axes: Axes, line: Line, label: str) -> None:
    colour = COLOURS[line.kind]
    if line.kind == "current":
        axes.plot(line.steps, line.values, color=colour, linewidth=0.9, label=label)
    elif line.errors:
        style = {"fmt": "o-", "capsize": 3, "markersize": 4.5, "linewidth": 1.8}
        for number, one in enumerate(line.stretches()):
            name = label if number == 0 else None  # once in the key
            axes.errorbar(one.steps, one.values, yerr=one.errors, color=colour, label=name, **style)  # type: ignore[arg-type]
    else:
        marker = "o" if line.kind == "measured" or len(line.steps) == 1 else ""
        axes.plot(line.steps, line.values, color=colour, linewidth=2, marker=marker, markersize=5, label=label)


def _keep_in_view(axes: Axes, chart: Chart) -> None:
    """One outlier of single steps must not flatten everything else."""
    current = next((line for line in chart.lines if line.kind == "current"), None)
    if current is None or len(current.values) < 20:
        return
    others = [one for one in chart.lines if one is not current]
    high = max([spread(current.values, 0.99), *(value for line in others for value in line.values), chart.control or 0])
    low = chart.bounds()[0]
    if max(current.values) > high + 0.5 * (high - low):
        axes.set_ylim(top=high + 0.15 * (high - low))


def _not_available(axes: Axes, chart: Chart, language: str) -> None:
    axes.set_yticks([])
    axes.set_xticks([])
    text = tr(language, "chart.not_available", reason=textwrap.fill(why_empty(language, chart.reason), LINE_LENGTH))
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=11.5, color=QUIET)


def _note(axes: Axes, chart: Chart, language: str) -> None:
    steps = ", ".join(str(step) for step, _ in chart.gaps[:6]) + (" …" if len(chart.gaps) > 6 else "")
    text = tr(language, "chart.gaps", steps=steps, reason=why_not(language, chart.gaps[-1][1]))
    axes.text(0.01, 0.02, text, transform=axes.transAxes, fontsize=8.5, color=QUIET)


def _control(chart: Chart, language: str) -> str:
    return tr(language, "chart.control_validation" if chart.name == "total" else "chart.control")


def font_for(language: str) -> str | None:
    """A font that has the signs of the language; "" where any has them, None where none was found."""
    if language == FALLBACK:
        return ""
    from matplotlib.font_manager import fontManager

    installed = {entry.name for entry in fontManager.ttflist}
    return next((name for name in chinese_fonts() if name in installed), None)


def chinese_fonts() -> list[str]:
    """Fonts with Traditional Chinese as systems name them, the fittest first."""
    return Path(__file__).with_name("chinese_fonts.txt").read_text(encoding="utf-8").splitlines()
