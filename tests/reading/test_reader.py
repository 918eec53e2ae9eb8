from __future__ import annotations

import shutil
from pathlib import Path

from lorasmith.reading.reader import RunReader, read_summary
from lorasmith.runs.events import encode
from lorasmith.runs.layout import RunFolder
from tests.reading.made_runs import add, begun, device, ended, finished_run, made_run, stepped, worker_ended


def steps_of(reader: RunReader) -> list[int]:
    return [point.step for point in reader.fold.points]


def test_it_takes_in_what_is_new(tmp_path: Path) -> None:
    run = made_run(tmp_path, [device(), begun(10), *stepped(1, 3)])
    reader = RunReader(run)
    reader.read()
    reader.read()
    assert steps_of(reader) == [1, 2, 3]
    add(run.ledger, *stepped(4, 5), ended(5))
    add(run.supervisor_log, worker_ended(1, 0))
    reader.read()
    assert steps_of(reader) == [1, 2, 3, 4, 5]
    assert reader.supervisor_events == [worker_ended(1, 0)]
    assert reader.fold.seconds_per_step == 2.0
    assert reader.summary() == read_summary(run)


def test_no_ledger_is_an_empty_one(tmp_path: Path) -> None:
    reader = RunReader(RunFolder(tmp_path / "nowhere"))
    reader.read()
    assert (reader.fold.starts, steps_of(reader), reader.summary().stop_at) == ([], [], None)


def test_a_line_that_is_being_written_waits(tmp_path: Path) -> None:
    run = made_run(tmp_path, [begun(10), *stepped(1, 1)])
    line = encode(stepped(2, 2)[0])
    reader = RunReader(run)
    with run.ledger.open("ab") as file:
        file.write(line[:20])
        file.flush()
        reader.read()
        assert reader.lines.is_torn and steps_of(reader) == [1] and reader.lines.unreadable == 0
        file.write(line[20:])
    reader.read()
    assert not reader.lines.is_torn and steps_of(reader) == [1, 2]


def test_what_it_does_not_understand_is_counted(tmp_path: Path) -> None:
    run = made_run(tmp_path, [begun(10)])
    with run.ledger.open("ab") as file:
        file.write(b"\0\0\0\0\n" + b'{"event": "FromTheFuture", "attempt": 1, "time": 0}\n' + b'{"event": "StepComp\n')
    add(run.ledger, *stepped(1, 2))
    reader = RunReader(run)
    reader.read()
    assert (reader.lines.unreadable, reader.lines.unknown, steps_of(reader)) == (2, 1, [1, 2])


def test_another_ledger_in_its_place_is_read_from_its_beginning(tmp_path: Path) -> None:
    run = made_run(tmp_path / "a", [begun(500), *stepped(1, 9), ended(9)])
    reader = RunReader(run)
    reader.read()
    newer = made_run(tmp_path / "b", [begun(500), *stepped(1, 12)])  # longer, so its size alone would not tell
    run.ledger.rename(tmp_path / "old.jsonl")
    shutil.move(newer.ledger, run.ledger)
    reader.read()
    assert len(reader.fold.starts) == 1 and len(reader.fold.points) == 12
    assert reader.fold.attempts[1].stopped is None
    run.ledger.write_bytes(encode(begun(7)))  # the same file, cut
    reader.read()
    assert (reader.fold.starts, steps_of(reader)) == ([begun(7)], [])
    run.ledger.unlink()
    reader.read()
    assert reader.fold.starts == []


def test_the_summary_knows_which_files_are_there(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "lora_output")
    (run.root / "last-best.safetensors").unlink()
    assert [(file.path, file.is_there) for file in read_summary(run).files] == [
        ("last-best.safetensors", False),
        ("last.safetensors", True),
        ("state_x", True),
    ]
