"""TensorBoard's event file, by TensorBoard's own record writer; no torch, no TensorFlow. A projection of the ledger.

The file is written in place of the older ones at every start, so cancelled steps leave no trace in the charts.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from tensorboard.compat.proto.event_pb2 import Event as Record
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from lorasmith.ledger import read_events
from lorasmith.reports.curves import Point, curves_of
from lorasmith.run_folder import no_space_named

PATTERN = "events.out.tfevents.*"
VERSION = "brain.Event:2"  # the first record of every event file; TensorBoard reads no other


class TensorBoardFile:
    """The one event file in `folder`; the folder is made where it is not there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None

    @property
    def path(self) -> Path:
        return self._folder

    def remake(self, points: Sequence[Point]) -> None:
        """A new file with these points takes the place of the older ones, once it is whole."""
        with suppress(OSError):  # what a full disk did not take is written anew below
            self.close()
        with no_space_named(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            older = sorted(self._folder.glob(PATTERN))
            final = self._folder / _file_name(older)
            temporary = final.with_name(f".{final.name}.tmp")
            try:
                with temporary.open("wb") as file:
                    _write(file, Record(wall_time=points[0].time if points else time.time(), file_version=VERSION))
                    for point in points:
                        _write(file, _record(point))
                for one in older:
                    one.unlink()
                temporary.replace(final)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
            self._file = final.open("ab")

    def append(self, point: Point) -> None:
        """One record, handed to the operating system before this returns: a TensorBoard that runs shows it."""
        assert self._file is not None
        with no_space_named(self._folder):
            _write(self._file, _record(point))
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()


def remake_tensorboard(ledger: Path, folder: Path) -> None:
    """The event file of a ledger that is not being written."""
    sink = TensorBoardFile(folder)
    sink.remake(curves_of(read_events(ledger)).points)
    sink.close()


def scalars(point: Point) -> dict[str, float]:
    """What is drawn of a step, by tag."""
    drawn = {"loss/current": point.loss, "loss/average": point.average_loss, "lr": point.denoiser_lr}
    drawn |= {f"lr/{component}": lr for component, lr in point.other_lrs.items()}
    return drawn | {"grad_norm": point.grad_norm}


def _record(point: Point) -> Record:
    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(point).items()]
    return Record(wall_time=point.time, step=point.step, summary=Summary(value=values))


def _write(file: IO[bytes], record: Record) -> None:
    RecordWriter(file).write(record.SerializeToString())


def _file_name(older: Sequence[Path]) -> str:
    """TensorBoard's form: time, host, process, number; never the name of an older file."""
    taken = {one.name for one in older}
    stem = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
    return next(name for number in range(len(taken) + 1) if (name := f"{stem}.{number}") not in taken)
