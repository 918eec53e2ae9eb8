"""A run that died between its last state and the file for the WebUI still owes the file, and no step."""

import pytest

from lorasmith.config import Request
from lorasmith.errors import ConfigError, ExitCode
from lorasmith.events import AdapterExported, WorkerRestarted
from lorasmith.runtime.starting import continued_run
from lorasmith.training.loop import Recorder
from tests.runs.workshop import Workshop


def test_going_on_writes_the_file_and_nothing_else(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "export", _dies)
        assert workshop.new(3).exit_code == ExitCode.CRASHED
    before = workshop.digest()
    assert not workshop.run.export("last").exists()
    assert workshop.go_on(None).exit_code == ExitCode.FINISHED
    assert workshop.run.export("last").exists()
    assert workshop.digest() == before
    with pytest.raises(ConfigError, match="nothing_owed"):
        continued_run(workshop.run, {}, Request(), from_state="", here=workshop.folder)


def _dies(self: Recorder, *arguments: object) -> None:
    raise RuntimeError("as if killed")


@pytest.mark.parametrize("count", [3, 2], ids=["one on the way", "the last one"])
def test_a_step_whose_state_was_saved_gets_its_file_too(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    written = Recorder.export
    deaths = iter([True])

    def export(self: Recorder, *arguments: object) -> None:
        if next(deaths, False):
            _dies(self)
        written(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Recorder, "export", export)
    outcome = workshop.new(count, {("cadence", "save_every"): 2})
    assert outcome.exit_code == ExitCode.FINISHED
    assert len(outcome.of(WorkerRestarted)) == 1
    assert workshop.run.export("last", 2).exists()
    assert [event.step for event in outcome.of(AdapterExported)] == [2, count]


def test_a_file_that_is_there_is_not_written_again(workshop: Workshop) -> None:
    workshop.new(2, {("cadence", "save_every"): 1})
    before = workshop.run.export("last", 1).stat().st_mtime_ns
    outcome = workshop.go_on(1, from_state="1")
    assert workshop.run.export("last", 1).stat().st_mtime_ns == before
    assert [event.step for event in outcome.of(AdapterExported)][:1] == [2]
