"""A run that died between its last state and the file for the WebUI still owes the file, and no step."""

import pytest

from lorasmith.config import Request
from lorasmith.errors import ConfigError, ExitCode
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
