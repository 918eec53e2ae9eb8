"""`training_loss_log.txt`: a CSV for spreadsheets, a row a step. A projection of the ledger, never read back."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from lorasmith.faults import fault_point
from lorasmith.messages import FALLBACK
from lorasmith.reading.fold import Curves, Point
from lorasmith.reading.metrics import PICTURE_METRICS, reason_of, value_of
from lorasmith.reports.reasons import why_not
from lorasmith.runs.durable import map_disk_full, write_atomically
from lorasmith.runs.events import Evaluated

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
LANGUAGE = FALLBACK  # spreadsheets on Windows do not recognise this file as UTF-8


class LossLog:
    """The file at `path`; its folder is made if it is missing."""

    def __init__(self, path: Path) -> None:
        self._wanted = path
        self._path = path  # another path where a program on Windows holds the file open

    @property
    def path(self) -> Path:
        return self._path

    def rewrite(self, curves: Curves) -> None:
        """Replaces the file by the rows of these curves, whole or not at all."""
        with map_disk_full(self._wanted):
            self._wanted.parent.mkdir(parents=True, exist_ok=True)
        evaluations = {evaluation.step: evaluation for evaluation in curves.evaluations}
        rows = [_row(point, evaluations.get(point.step)) for point in curves.points]
        self._path = write_atomically(self._wanted, _rows([COLUMNS, *rows]))

    def append(self, point: Point) -> None:
        """Adds a row; it is handed to the operating system before this returns."""
        with map_disk_full(self._path), self._path.open("ab") as file:
            file.write(_rows([_row(point, None)]))
            file.flush()
            fault_point("csv.appended")

    def add_evaluation(self, evaluation: Evaluated, curves: Curves) -> None:
        """Rewrites the file, since the row of that step is there already. The baseline has no row."""
        if not evaluation.is_control:
            self.rewrite(curves)

    def close(self) -> None:
        """Does nothing: the file is not kept open between two rows, so that a spreadsheet can open it."""


def _row(point: Point, evaluation: Evaluated | None) -> tuple[object, ...]:
    when = datetime.fromtimestamp(point.time).astimezone().isoformat(timespec="milliseconds")
    cells = [_cell(evaluation, metric) for metric in PICTURE_METRICS]
    reasons = "" if evaluation is None else _reasons(evaluation)
    return (point.step, point.epoch, point.loss, point.average_loss, *cells, point.denoiser_lr, when, reasons)


def _cell(evaluation: Evaluated | None, metric: str) -> object:
    """Empty where no evaluation was due, N/A where the metric could not be computed."""
    if evaluation is None:
        return ""
    value = value_of(evaluation, metric)
    return NOT_MEASURABLE if value is None else value


def _reasons(evaluation: Evaluated) -> str:
    """The reason of every N/A in the row; metrics with the same reason are named together."""
    metrics: dict[str, list[str]] = {}
    for metric in PICTURE_METRICS:
        if value_of(evaluation, metric) is None:
            metrics.setdefault(why_not(LANGUAGE, reason_of(evaluation, metric)), []).append(metric)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in metrics.items())


def _rows(rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
