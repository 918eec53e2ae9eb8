from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.compat.proto.event_pb2 import Event as Record

from lorasmith.messages import tr
from lorasmith.reading.fold import curves_of
from lorasmith.reports.projections import projections_of
from lorasmith.reports.tensorboard import PATTERN, TensorBoardFile, scalars
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import Ledger
from tests.reading.made_up import evaluated, started, stepped, written
from tests.ui.fake_engine import T0, run_started, step

EVENTS = [run_started(5), *(step(number) for number in range(1, 6))]

NO_CLIP = tr("en", "unavailable.no_clip_model")


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
    sink = TensorBoardFile(RunFolder(tmp_path))
    points = curves_of(EVENTS).points
    sink.rewrite(curves_of(EVENTS[:4]))
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
    run = RunFolder(tmp_path)
    first = TensorBoardFile(run)
    first.rewrite(curves_of(EVENTS))
    first.close()
    (run.tensorboard / "notes.txt").write_text("the user's")
    (before,) = run.tensorboard.glob(PATTERN)
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        for event in [*EVENTS, run_started(5, resumed_from=2, attempt=2), step(3, attempt=2, loss=9.0)]:
            ledger.append(event)
    rewrite(run)
    assert [record.step for record in records(run.tensorboard)] == [0, 1, 2, 3]
    assert records(run.tensorboard)[-1].summary.value[0].simple_value == 9.0
    assert not before.exists()
    assert (run.tensorboard / "notes.txt").exists()


def rewrite(run: RunFolder) -> None:
    projections = projections_of(run)
    assert projections.rewrite() == []
    projections.close()


READ = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
all_of = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "images": 0, "tensors": 0})
all_of.Reload()
tags = all_of.Tags()
print(json.dumps({
    "scalars": {tag: [(one.step, one.value) for one in all_of.Scalars(tag)] for tag in tags["scalars"]},
    "images": {tag: [(one.step, one.width) for one in all_of.Images(tag)] for tag in tags["images"]},
    "texts": {tag: [(one.step, one.tensor_proto.string_val[0].decode()) for one in all_of.Tensors(tag)]
              for tag in tags["tensors"]},
}))
"""


def read_back(folder: Path) -> dict[str, Any]:
    """What TensorBoard's own reader finds."""
    done = subprocess.run([sys.executable, "-c", READ, str(folder)], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_tensorboard_itself_reads_a_run_that_was_killed_and_continued(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    killed = [*stepped(range(1, 5)), evaluated(4, tmp_path, root=run.root, is_control=True)]
    killed += [evaluated(4, tmp_path, root=run.root), *stepped(range(5, 8)), evaluated(7, tmp_path, root=run.root)]
    events = [started(tmp_path, 9), *killed, started(tmp_path, 9, attempt=2, resumed_from=4)]
    missing = {"semantic": "no_clip_model"}
    events += [*stepped(range(5, 10), attempt=2), evaluated(9, tmp_path, root=run.root, attempt=2, unavailable=missing)]
    (run.samples / "step-00000009" / "sample_1.png").unlink()
    written(run.root, events)
    rewrite(run)
    found = read_back(run.tensorboard)
    for tag in ("loss/current", "loss/average", "lr", "grad_norm"):
        assert [step for step, _ in found["scalars"][tag]] == list(range(1, 10))
    assert [step for step, _ in found["scalars"]["loss/visual"]] == [0, 4, 9]
    assert [step for step, _ in found["scalars"]["loss/validation"]] == [0, 4, 9]
    assert [step for step, _ in found["scalars"]["loss/semantic"]] == [0, 4]
    assert found["texts"] == {"unavailable/semantic": [[9, NO_CLIP]]}
    assert found["images"]["samples/01"] == [[0, 192], [4, 192], [9, 192]]
    assert found["images"]["samples/02"] == [[0, 192], [4, 192]]  # the file that is gone is left out


def test_measures_that_come_later_are_added_to_the_same_file(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    sink = TensorBoardFile(run, "zh-TW")
    curves = curves_of(EVENTS)
    sink.rewrite(curves)
    sink.add_evaluation(evaluated(5, tmp_path, is_control=True), curves)
    sink.add_evaluation(evaluated(5, tmp_path, unavailable={"color": "not_finite"}), curves)
    sink.close()
    found = read_back(run.tensorboard)
    assert [step for step, _ in found["scalars"]["loss/color"]] == [0]
    assert [step for step, _ in found["scalars"]["loss/visual"]] == [0, 5]
    assert found["texts"] == {"unavailable/color": [[5, tr("zh-TW", "unavailable.not_finite")]]}
    assert found["images"] == {}


def test_no_torch_is_loaded() -> None:
    script = (
        "import lorasmith.reports.tensorboard, sys; sys.exit('torch' in sys.modules or 'tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
