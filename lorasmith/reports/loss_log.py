"""`training_loss_log.txt`: a CSV for spreadsheets, one row a step. A projection of the ledger, never read back."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from lorasmith.faults import fault_point
from lorasmith.messages import FALLBACK
from lorasmith.reading.evaluations import PICTURE_METRICS, reason_of, value_of
from lorasmith.reading.fold import Curves, Point, curves_of
from lorasmith.reports.reasons import why_not
from lorasmith.runs.durable import map_disk_full, write_atomically
from lorasmith.runs.events import Evaluated
from lorasmith.runs.ledger import read_events

COLUMNS = (
    "step",
    "epoch",
    "total_loss",
    "average_loss",
    "visual_loss",
    "semantic_loss",
    "color_loss",
    "learning_rate",
    "timestamp",
    "unavailable",
)
NOT_MEASURABLE = "N/A"
LANGUAGE = FALLBACK  # spreadsheets on Windows do not know this file for UTF-8


class LossLog:
    """The file at `path`; its folder is made where it is not there."""

    def __init__(self, path: Path) -> None:
        self._asked = path
        self._path = path  # another one where a program on Windows holds the file open

    @property
    def path(self) -> Path:
        return self._path

    def remake(self, curves: Curves) -> None:
        """Replaces the file by the rows of these curves, whole or not at all."""
        with map_disk_full(self._asked):
            self._asked.parent.mkdir(parents=True, exist_ok=True)
        measured = {one.step: one for one in curves.evaluations}
        rows = [_row(point, measured.get(point.step)) for point in curves.points]
        self._path = write_atomically(self._asked, _rows([COLUMNS, *rows]))

    def append(self, point: Point) -> None:
        """One row more, handed to the operating system before this returns."""
        with map_disk_full(self._path), self._path.open("ab") as file:
            file.write(_rows([_row(point, None)]))
            file.flush()
            fault_point("csv.appended")

    def measured(self, evaluation: Evaluated, curves: Curves) -> None:
        """A row that is there already gets its measures: the file is made anew. A control has no row."""
        if not evaluation.is_control:
            self.remake(curves)

    def close(self) -> None:
        """Nothing is held open between two rows, so that a spreadsheet can have the file."""


def remake_loss_log(ledger: Path, path: Path) -> None:
    """The CSV of a ledger that is not being written."""
    LossLog(path).remake(curves_of(read_events(ledger)))


def _row(point: Point, evaluation: Evaluated | None) -> tuple[object, ...]:
    when = datetime.fromtimestamp(point.time).astimezone().isoformat(timespec="milliseconds")
    cells = [_cell(evaluation, measure) for measure in PICTURE_METRICS]
    reasons = "" if evaluation is None else _reasons(evaluation)
    return (point.step, point.epoch, point.loss, point.average_loss, *cells, point.denoiser_lr, when, reasons)


def _cell(evaluation: Evaluated | None, measure: str) -> object:
    """Empty where no measure was due, N/A where it was and could not be taken."""
    if evaluation is None:
        return ""
    value = value_of(evaluation, measure)
    return NOT_MEASURABLE if value is None else value


def _reasons(evaluation: Evaluated) -> str:
    """Of every N/A in its row; those of the same reason together."""
    measures: dict[str, list[str]] = {}
    for measure in PICTURE_METRICS:
        if value_of(evaluation, measure) is None:
            measures.setdefault(why_not(LANGUAGE, reason_of(evaluation, measure)), []).append(measure)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in measures.items())


def _rows(rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
