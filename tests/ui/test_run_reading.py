from __future__ import annotations

import shutil
from pathlib import Path

from lorasmith.runs.events import Warned, encode
from lorasmith.ui.run_reading import RunReader
from tests.ui.made_runs import T0, add, begun, device, ended, made_run, stepped


def test_it_takes_in_what_is_new(tmp_path: Path) -> None:
    run = made_run(tmp_path, [device(), begun(10), *stepped(1, 3)])
    reader = RunReader(run.ledger)
    reader.read()
    reader.read()
    assert [one.step for one in reader.curves.points] == [1, 2, 3]
    add(run.ledger, *stepped(4, 5), ended(5))
    reader.read()
    assert [one.step for one in reader.curves.points] == [1, 2, 3, 4, 5]
    assert reader.ending(1) == ended(5) and reader.ending(2) is None
    assert reader.pace.seconds_per_step == 2.0


def test_no_ledger_is_an_empty_one(tmp_path: Path) -> None:
    reader = RunReader(tmp_path / "ledger.jsonl")
    reader.read()
    assert reader.starts == [] and reader.device is None and reader.curves.points == ()


def test_a_line_that_is_being_written_waits(tmp_path: Path) -> None:
    run = made_run(tmp_path, [begun(10), *stepped(1, 1)])
    line = encode(stepped(2, 2)[0])
    with run.ledger.open("ab") as file:
        file.write(line[:20])
        file.flush()
        reader = RunReader(run.ledger)
        reader.read()
        assert reader.is_torn and len(reader.curves.points) == 1 and reader.unreadable == 0
        file.write(line[20:])
    reader.read()
    assert not reader.is_torn and len(reader.curves.points) == 2


def test_what_it_does_not_understand_is_counted(tmp_path: Path) -> None:
    run = made_run(tmp_path, [begun(10)])
    with run.ledger.open("ab") as file:
        file.write(b"\0\0\0\0\n" + b'{"event": "FromTheFuture", "attempt": 1, "time": 0}\n' + b'{"event": "StepComp\n')
    add(run.ledger, *stepped(1, 2))
    reader = RunReader(run.ledger)
    reader.read()
    assert (reader.unreadable, reader.unknown, len(reader.curves.points)) == (2, 1, 2)


def test_another_ledger_in_its_place_is_read_from_its_beginning(tmp_path: Path) -> None:
    run = made_run(tmp_path / "a", [begun(10), *stepped(1, 9), ended(9)])
    reader = RunReader(run.ledger)
    reader.read()
    newer = made_run(tmp_path / "b", [begun(500), *stepped(1, 12)])  # longer, so its size alone would not tell
    run.ledger.rename(tmp_path / "old.jsonl")
    shutil.move(newer.ledger, run.ledger)
    reader.read()
    assert len(reader.starts) == 1 and reader.starts[0].stop_at == 500
    assert len(reader.curves.points) == 12 and reader.ending(1) is None
    run.ledger.unlink()
    reader.read()
    assert reader.starts == []


def test_steps_done_over_are_told_apart(tmp_path: Path) -> None:
    run = made_run(tmp_path, [begun(10), *stepped(1, 6), begun(10, attempt=2, resumed_from=4)])
    add(run.ledger, *stepped(5, 7, attempt=2))
    reader = RunReader(run.ledger)
    reader.read()
    assert [one.step for one in reader.curves.points] == [1, 2, 3, 4, 5, 6, 7]
    assert reader.steps_completed == 9
    assert len(reader.starts) == 2


def test_a_warning_is_told_once_and_only_of_its_attempt(tmp_path: Path) -> None:
    def warned(attempt: int, path: str) -> Warned:
        return Warned(attempt=attempt, time=T0, code="x", fields={"path": path})

    run = made_run(tmp_path, [begun(10), warned(1, "a"), warned(1, "a"), warned(1, "b"), warned(2, "c")])
    reader = RunReader(run.ledger)
    reader.read()
    assert [one.fields["path"] for one in reader.warnings(1)] == ["a", "b"]
