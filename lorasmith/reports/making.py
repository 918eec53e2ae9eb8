"""Makes the reports of a run: ledgers in; one JSON, one PNG and one HTML page out, under one time stamp.

A later report replaces no earlier report. A library that fails, or a full disk, costs the file concerned and never ends
the run. What draws is imported only when it draws, so that importing this module is cheap.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from lorasmith.errors import InputError
from lorasmith.reading.reader import read_summary
from lorasmith.reading.summary import RunSummary
from lorasmith.reports.charts import Chart, four_charts, more_charts
from lorasmith.reports.json_report import json_report
from lorasmith.reports.projections import reason_of
from lorasmith.reports.translator import Translator
from lorasmith.runs.durable import map_disk_full, write_atomically
from lorasmith.runs.layout import RunFolder

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(slots=True)
class ReportFiles:
    """The files that were made; a file that could not be is None, and a warning says why."""

    json: Path | None = None
    png: Path | None = None
    html: Path | None = None
    warnings: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # code and fields

    @property
    def made(self) -> list[Path]:
        """The files that were made, the page first."""
        return [path for path in (self.html, self.png, self.json) if path is not None]


@dataclass(frozen=True, slots=True)
class _Drawings:
    png: bytes
    charts: list[tuple[Chart, str]]  # each with its SVG


def make_reports(run: RunFolder, words: Translator, *, now: datetime | None = None) -> ReportFiles:
    """Writes the three files of the run from its ledgers. `now` names them."""
    now = now or datetime.now()
    files, paths = ReportFiles(), run.reports(now)
    if _attempt(files, run.training_logs, lambda: _make_folder(run.training_logs)) is None:
        return files
    summary = _attempt(files, run.ledger, lambda: read_summary(run))
    if summary is None:
        return files
    files.json = _attempt(files, paths.json, lambda: write_atomically(paths.json, json_report(summary, now=now)))
    drawings = _attempt(files, paths.png, lambda: _draw(summary, words.language))
    why_no_charts = [] if drawings else words.warning(*files.warnings[-1])
    if drawings:
        files.png = _attempt(files, paths.png, lambda: write_atomically(paths.png, drawings.png))

    def page() -> Path:
        from lorasmith.reports.page import render_page

        charts = drawings.charts if drawings else []
        html = render_page(summary, words, root=run.root, now=now, charts=charts, why_no_charts=why_no_charts)
        return write_atomically(paths.html, html)

    files.html = _attempt(files, paths.html, page)
    return files


def _make_folder(folder: Path) -> Path:
    with map_disk_full(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _draw(summary: RunSummary, language: str) -> _Drawings:
    from lorasmith.reports import drawing

    charts = (*four_charts(summary), *more_charts(summary))
    svgs = [(chart, "" if chart.is_empty else drawing.draw_svg(chart, language)) for chart in charts]
    return _Drawings(drawing.draw_png(summary, language), svgs)


def _attempt(files: ReportFiles, path: Path, action: Callable[[], T]) -> T | None:
    """The action's result; None with a warning where it fails, for a run that is over does not fail by its report."""
    try:
        return action()
    except Exception as error:
        log.debug("%s: %s", path, error, exc_info=True)
        if isinstance(error, InputError):  # a library that cannot be imported
            files.warnings.append(("report_without_library", {"path": str(path), **error.fields}))
        else:
            files.warnings.append(("report_failed", {"path": str(path), "reason": reason_of(error)}))
        return None
