"""A run that died after its last state still owes what comes then, and no step: the file for the WebUI, and the last
look at what was learned.
"""

import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest

from lorasmith.config import Request
from lorasmith.errors import ConfigError, ExitCode
from lorasmith.runs.events import AdapterExported, BestChosen, Evaluated, StepCompleted, WorkerRestarted
from lorasmith.runtime.preflight import continued_run
from lorasmith.session import outputs
from lorasmith.session.outputs import Outputs
from tests.end_to_end.workshop import Outcome, Values, Workshop, tree
from tests.faults.forked import in_child
from tests.faults.looked_at import EVALUATED, check_best, know_losses, told

MakeWorkshop = Callable[[str], Workshop]
LOOKED_AT: Values = {**EVALUATED, ("cadence", "save_every"): 2}


def test_going_on_writes_the_file_and_nothing_else(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Outputs, "export", _dies)
        assert workshop.new(3).exit_code == ExitCode.CRASHED
    before = workshop.digest()
    assert not workshop.run.export("last").exists()
    assert workshop.go_on(None).exit_code == ExitCode.FINISHED
    assert workshop.run.export("last").exists()
    assert workshop.digest() == before
    with pytest.raises(ConfigError, match="nothing_owed"):
        continued_run(workshop.run, {}, Request(), from_state="", here=workshop.folder)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork there")
@pytest.mark.ci
@pytest.mark.parametrize("point", ["evaluation.begun:2", "evaluation.measured:2", "best.kept:2"])
def test_going_on_looks_and_does_nothing_else(
    make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    know_losses(monkeypatch, {2: 0.5, 3: 0.4})
    undisturbed, workshop = make_workshop("undisturbed"), make_workshop("killed")
    undisturbed.new(3, LOOKED_AT)
    assert in_child(lambda: int(workshop.new(3, LOOKED_AT).exit_code), fault=f"{point}:kill") == -signal.SIGKILL
    before, export = workshop.digest(), workshop.run.export("last").read_bytes()
    backups = tree(workshop.run.backup)
    outcome = workshop.go_on(None)
    assert outcome.exit_code == ExitCode.FINISHED
    assert told(workshop) == told(undisturbed)
    check_best(workshop)
    assert (workshop.digest(), workshop.run.export("last").read_bytes()) == (before, export)
    assert tree(workshop.run.backup) == backups, "what is there already needs no backup"
    assert steps_told(outcome) == []
    with pytest.raises(ConfigError, match="nothing_owed"):
        continued_run(workshop.run, {}, Request(), from_state="", here=workshop.folder)


def test_a_run_that_finished_without_a_last_look_owes_none(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after Ctrl+C there."""
    monkeypatch.setattr(Outputs, "evaluate", lambda *_, **__: None)
    assert workshop.new(3, LOOKED_AT).exit_code == ExitCode.FINISHED
    with pytest.raises(ConfigError, match="nothing_owed"):
        continued_run(workshop.run, {}, Request(), from_state="", here=workshop.folder)


@pytest.mark.ci
def test_one_that_failed_at_its_last_look_owes_it(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Outputs, "evaluate", _dies)
        assert workshop.new(3, LOOKED_AT).exit_code == ExitCode.CRASHED
    outcome = workshop.go_on(None)
    assert [event.step for event in outcome.of(Evaluated)] == [3, 3]
    assert outcome.exit_code == ExitCode.FINISHED


@pytest.mark.ci
def test_an_export_that_is_not_this_runs_goes_to_the_backup(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the ledger tells: somebody has put another file there."""
    with monkeypatch.context() as patch:
        patch.setattr(Outputs, "evaluate", _dies)
        workshop.new(3, LOOKED_AT)
    workshop.run.export("last").write_bytes(b"of the user")
    workshop.go_on(None)
    assert b"of the user" in [path.read_bytes() for path in workshop.run.backup.iterdir()]


def steps_told(outcome: Outcome) -> list[int]:
    return [event.step for event in outcome.of(StepCompleted)]


def _dies(self: Outputs, *arguments: object, **named: object) -> None:
    raise RuntimeError("as if killed")


@pytest.mark.parametrize("count", [3, 2], ids=["one on the way", "the last one"])
def test_a_step_whose_state_was_saved_gets_its_file_too(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    written = Outputs.export
    deaths = iter([True])

    def export(self: Outputs, *arguments: object) -> None:
        if next(deaths, False):
            _dies(self)
        written(self, *arguments)

    monkeypatch.setattr(Outputs, "export", export)
    outcome = workshop.new(count, {("cadence", "save_every"): 2})
    assert outcome.exit_code == ExitCode.FINISHED
    assert len(outcome.of(WorkerRestarted)) == 1
    assert workshop.run.export("last", 2).exists()
    assert [event.step for event in outcome.of(AdapterExported)] == [2, count]


def test_a_file_whose_line_was_lost_is_told(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not told cannot be the best."""
    know_losses(monkeypatch, {2: 0.4, 3: 0.5})
    deaths = iter([True])

    def line(**fields: Any) -> AdapterExported:
        if next(deaths, False):
            raise RuntimeError("as if killed")
        return AdapterExported(**fields)

    monkeypatch.setattr(outputs, "AdapterExported", line)
    outcome = workshop.new(3, LOOKED_AT)
    assert len(outcome.of(WorkerRestarted)) == 1
    assert [event.step for event in outcome.of(AdapterExported)] == [2, 3]
    assert [event.step for event in outcome.of(BestChosen)] == [2]
    check_best(workshop)


def test_a_file_that_is_there_is_not_written_again(workshop: Workshop) -> None:
    workshop.new(2, {("cadence", "save_every"): 1})
    before = workshop.run.export("last", 1).stat().st_mtime_ns
    outcome = workshop.go_on(1, from_state="1")
    assert workshop.run.export("last", 1).stat().st_mtime_ns == before
    assert [event.step for event in outcome.of(AdapterExported)][:1] == [2]
