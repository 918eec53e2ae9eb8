"""TensorBoard's event file, by TensorBoard's own record writer; no torch, no TensorFlow. A projection of the ledger.

A new file replaces the older files at every start, so cancelled steps leave no trace in the charts. The baseline (the
metrics with the adapter off) stands at step 0.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from tensorboard.compat.proto.event_pb2 import Event as Record
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.record_writer import RecordWriter

from lorasmith.faults import fault_point
from lorasmith.messages import FALLBACK
from lorasmith.reading.fold import Curves, Point
from lorasmith.reading.metrics import METRICS, reason_of, value_of
from lorasmith.reports.reasons import why_not
from lorasmith.runs.durable import map_disk_full
from lorasmith.runs.events import Evaluated
from lorasmith.runs.layout import RunFolder

PATTERN = "events.out.tfevents.*"
PNG_HEAD = b"\x89PNG\r\n\x1a\n"
RGB = 3  # TensorBoard's number of the colour space
VERSION = "brain.Event:2"  # the first record of every event file; TensorBoard reads no other


class TensorBoardFile:
    """The event file in the run's `logs`; the folder is made if it is missing."""

    def __init__(self, run: RunFolder, language: str = FALLBACK) -> None:
        self._run = run
        self._folder = run.tensorboard
        self._language = language  # of the reasons for missing metrics
        self._file: IO[bytes] | None = None

    @property
    def path(self) -> Path:
        return self._folder

    def rewrite(self, curves: Curves) -> None:
        """Replaces the older files by a new file with these curves, once it is complete."""
        with suppress(OSError):  # what a full disk refused is written again below
            self.close()
        with map_disk_full(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            older = sorted(self._folder.glob(PATTERN))
            final = self._folder / _file_name(older)
            temporary = final.with_name(f".{final.name}.tmp")
            began = curves.points[0].time if curves.points else time.time()
            try:
                with temporary.open("wb") as file:
                    _write(file, Record(wall_time=began, file_version=VERSION))
                    self._write_all(file, curves)
                fault_point("tensorboard.written")
                for path in older:
                    path.unlink()
                fault_point("tensorboard.cleared")
                temporary.replace(final)
                fault_point("tensorboard.renamed")
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            self._file = final.open("ab")

    def _write_all(self, file: IO[bytes], curves: Curves) -> None:
        if curves.baseline is not None:
            _write(file, self._record_of(curves.baseline))
        evaluations = list(curves.evaluations)
        for point in curves.points:
            _write(file, _record(point))
            while evaluations and evaluations[0].step <= point.step:
                _write(file, self._record_of(evaluations.pop(0)))

    def append(self, point: Point) -> None:
        """Adds a record, handed to the operating system before this returns: a running TensorBoard shows it."""
        assert self._file is not None
        with map_disk_full(self._folder):
            _write(self._file, _record(point))
            self._file.flush()
            fault_point("tensorboard.appended")

    def add_evaluation(self, evaluation: Evaluated, curves: Curves) -> None:
        """Adds the metrics and the samples they were computed from."""
        del curves  # what the file has already stays as it is
        assert self._file is not None
        with map_disk_full(self._folder):
            _write(self._file, self._record_of(evaluation))
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    def _record_of(self, evaluation: Evaluated) -> Record:
        step = 0 if evaluation.is_control else evaluation.step
        values = []
        for measure in METRICS:
            value = value_of(evaluation, measure)
            if value is not None:
                values.append(Summary.Value(tag=f"loss/{measure}", simple_value=value))
            elif reason := reason_of(evaluation, measure):
                values.append(_text(f"unavailable/{measure}", why_not(self._language, reason)))
        for number, sample in enumerate(evaluation.samples, start=1):
            picture = _png(self._run.root / str(sample.get("path") or ""))
            if picture is not None:
                values.append(Summary.Value(tag=f"samples/{number:02d}", image=picture))
        return Record(wall_time=evaluation.time, step=step, summary=Summary(value=values))


def scalars(point: Point) -> dict[str, float]:
    """The values of a step by tag."""
    values = {"loss/current": point.loss, "loss/average": point.average_loss, "lr": point.denoiser_lr}
    values |= {f"lr/{component}": lr for component, lr in point.other_lrs.items()}
    return values | {"grad_norm": point.grad_norm}


def _record(point: Point) -> Record:
    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(point).items()]
    return Record(wall_time=point.time, step=point.step, summary=Summary(value=values))


def _text(tag: str, text: str) -> Summary.Value:
    plugin = SummaryMetadata.PluginData(plugin_name="text")
    tensor = TensorProto(
        dtype=DT_STRING,
        string_val=[text.encode()],
        tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
    )
    return Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin), tensor=tensor)


def _png(path: Path) -> Summary.Image | None:
    """The picture as its file holds it; None where the file is gone or no PNG."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if not data.startswith(PNG_HEAD) or len(data) < 24:
        return None
    width, height = struct.unpack(">II", data[16:24])
    return Summary.Image(width=width, height=height, colorspace=RGB, encoded_image_string=data)


def _write(file: IO[bytes], record: Record) -> None:
    RecordWriter(file).write(record.SerializeToString())


def _file_name(older: Sequence[Path]) -> str:
    """A name as TensorBoard makes it (time, host, process, number), never that of an older file."""
    taken = {path.name for path in older}
    stem = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
    return next(name for number in range(len(taken) + 1) if (name := f"{stem}.{number}") not in taken)
