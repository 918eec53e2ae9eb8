from pathlib import Path

import pytest

from lorasmith.errors import ResourceError
from lorasmith.runs.events import Warned
from lorasmith.runs.ledger import Ledger, read_events
from lorasmith.runtime.own_log import OwnLog


def warned(code: str) -> Warned:
    return Warned(attempt=1, time=0.0, code=code)


def test_it_waits_for_the_run(tmp_path: Path) -> None:
    log = OwnLog(tmp_path / "supervisor.jsonl")
    assert log.add(warned("a")) == warned("a")
    assert list(tmp_path.iterdir()) == []
    log.write()
    log.add(warned("b"))
    log.write()
    assert read_events(tmp_path / "supervisor.jsonl") == [warned("a"), warned("b")]


def test_with_nothing_to_say_it_makes_no_file(tmp_path: Path) -> None:
    OwnLog(tmp_path / "supervisor.jsonl").write()
    assert list(tmp_path.iterdir()) == []


def test_on_a_full_disk_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = OwnLog(tmp_path / "supervisor.jsonl")
    log.write()
    append = Ledger.append

    def full(self: Ledger, event: Warned) -> None:
        if event.code != "a":
            raise ResourceError("disk_full", path="x")
        append(self, event)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "append", full)
        for code in "abc":
            log.add(warned(code))
    assert read_events(tmp_path / "supervisor.jsonl") == [warned("a")]
    log.add(warned("d"))
    assert read_events(tmp_path / "supervisor.jsonl") == [warned(code) for code in "abcd"]
