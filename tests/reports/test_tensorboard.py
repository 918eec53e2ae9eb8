from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.compat.proto.event_pb2 import Event as Record

from lorasmith.ledger import Ledger
from lorasmith.reports.curves import curves_of
from lorasmith.reports.tensorboard import PATTERN, TensorBoardFile, remake_tensorboard, scalars
from tests.ui.fake_engine import T0, run_started, step

EVENTS = [run_started(5), *(step(number) for number in range(1, 6))]


def records(folder: Path) -> list[Record]:
    """What the only event file there holds; the framing read by hand."""
    (path,) = folder.glob(PATTERN)
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(Record.FromString(data[12 : 12 + length]))
        data = data[12 + length + 4 :]
    return found


def test_every_step_has_every_tag_at_the_time_of_the_event(tmp_path: Path) -> None:
    sink = TensorBoardFile(tmp_path / "logs")
    points = curves_of(EVENTS).points
    sink.remake(points[:3])
    for point in points[3:]:
        sink.append(point)
    first, *steps = records(tmp_path / "logs")  # before close: a running TensorBoard sees each step at once
    sink.close()
    assert first.file_version == "brain.Event:2"
    assert [record.step for record in steps] == [1, 2, 3, 4, 5]
    assert [record.wall_time for record in steps] == [T0 + 0.5 * number for number in range(1, 6)]
    for record, point in zip(steps, points, strict=True):
        assert {value.tag: value.simple_value for value in record.summary.value} == pytest.approx(scalars(point))
    assert set(scalars(points[0])) == {"loss/current", "loss/average", "lr", "grad_norm"}


def test_a_trained_text_encoder_has_a_curve_of_its_own() -> None:
    event = step(1)
    event.lr["text_encoder"] = 5e-5
    drawn = scalars(curves_of([run_started(5), event]).points[0])
    assert (drawn["lr"], drawn["lr/text_encoder"]) == (1e-4, 5e-5)


def test_making_it_again_leaves_one_file_without_what_was_cancelled(tmp_path: Path) -> None:
    first = TensorBoardFile(tmp_path)
    first.remake(curves_of(EVENTS).points)
    first.close()
    (tmp_path / "notes.txt").write_text("the user's")
    (before,) = tmp_path.glob(PATTERN)
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        for event in [*EVENTS, run_started(5, resumed_from=2, attempt=2), step(3, attempt=2, loss=9.0)]:
            ledger.append(event)
    remake_tensorboard(tmp_path / "ledger.jsonl", tmp_path)
    assert [record.step for record in records(tmp_path)] == [0, 1, 2, 3]
    assert records(tmp_path)[-1].summary.value[0].simple_value == 9.0
    assert not before.exists()
    assert (tmp_path / "notes.txt").exists()


def test_tensorboard_itself_reads_it(tmp_path: Path) -> None:
    sink = TensorBoardFile(tmp_path)
    sink.remake(curves_of(EVENTS).points)
    sink.close()
    script = (
        "import sys; from tensorboard.backend.event_processing.event_accumulator import EventAccumulator as A\n"
        "a = A(sys.argv[1]); a.Reload(); print([(e.step, round(e.value, 4)) for e in a.Scalars('loss/current')])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[(1, 0.5), (2, 0.25), (3, 0.1667), (4, 0.125), (5, 0.1)]"


def test_no_torch_is_loaded() -> None:
    script = (
        "import lorasmith.reports.tensorboard, sys; sys.exit('torch' in sys.modules or 'tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
