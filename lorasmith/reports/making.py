"""Makes the reports of a run: ledgers in, one JSON, one PNG and one page out, under one time stamp.

A later report replaces no earlier one. What cannot be drawn or written is told, and ends nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from lorasmith.errors import InputError
from lorasmith.reading.summary import RunSummary, summary_of
from lorasmith.reports.files import ReportFiles
from lorasmith.reports.html_report import html_report
from lorasmith.reports.json_report import json_report
from lorasmith.reports.png_report import png_report
from lorasmith.reports.projections import Trouble, reason_of
from lorasmith.reports.speech import Speech
from lorasmith.runs.durable import map_disk_full, write_atomically
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import read_events

log = logging.getLogger(__name__)


def make_reports(run: RunFolder, words: Speech, *, now: datetime | None = None) -> ReportFiles:
    """Writes the three files of the run as its ledgers tell it. `now` names them."""
    now = now or datetime.now()
    making = _Making([])
    paths = run.reports(now)
    summary = making.read(run) if making.prepared(run.training_logs) else None
    if summary is None:
        return ReportFiles(None, None, None, tuple(making.troubles))
    json = making.written(paths.json, lambda: json_report(summary, now=now))
    html = making.written(paths.html, lambda: html_report(summary, words, root=run.root, now=now))
    png, lacking = None, None
    try:
        png = making.written(paths.png, lambda: png_report(summary, words.language))
    except InputError as error:
        lacking = error
        log.debug("%s", error)
    return ReportFiles(json, png, html, tuple(making.troubles), lacking)


def read_summary(run: RunFolder) -> RunSummary:
    """What the run's two ledgers and its folder tell; a torn or missing one tells what it can."""
    present = {one.name for one in run.root.iterdir()} if run.root.is_dir() else set()
    return summary_of(read_events(run.ledger), read_events(run.supervisor_log), present=present)


@dataclass(frozen=True, slots=True)
class _Making:
    """Collects what could not be written."""

    troubles: list[Trouble]

    def prepared(self, folder: Path) -> bool:
        return self._done(folder, lambda: self._make(folder))

    def read(self, run: RunFolder) -> RunSummary | None:
        read: list[RunSummary] = []
        self._done(run.ledger, lambda: read.append(read_summary(run)))
        return read[0] if read else None

    def written(self, path: Path, draw: Callable[[], bytes]) -> Path | None:
        written: list[Path] = []
        self._done(path, lambda: written.append(write_atomically(path, draw())))
        return written[0] if written else None

    def _make(self, folder: Path) -> None:
        with map_disk_full(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def _done(self, path: Path, action: Callable[[], None]) -> bool:
        try:
            action()
        except InputError:  # a library that cannot be imported
            raise
        except Exception as error:  # a run that is over is not failed by a library that cannot draw it
            log.debug("%s: %s", path, error, exc_info=True)
            self.troubles.append(Trouble(str(path), reason_of(error)))
            return False
        return True
