from __future__ import annotations

import io
from pathlib import Path

import pytest

from lorasmith.config import RunConfig
from lorasmith.errors import ExitCode
from lorasmith.run_folder import RunFolder
from lorasmith.runtime.start import Start
from lorasmith.ui.screens import LastingScreen, PlainScreen
from lorasmith.ui.watching import watch
from lorasmith.ui.words import Words
from tests.ui.fake_engine import FakeSupervisor


@pytest.fixture
def start(tmp_path: Path) -> Start:
    return Start(RunFolder(tmp_path / "lora_output"), RunConfig(), 5, True, 0)


def watched(start: Start, **options: object) -> tuple[int, str]:
    out = io.StringIO()
    supervisor = FakeSupervisor(start, **options)  # type: ignore[arg-type]
    status = watch(
        start, supervisor, words=Words("en"), command="lorasmith train", verbose=False, screen=PlainScreen(out)
    )
    return status, out.getvalue()


def test_a_run_goes_to_screen_tensorboard_and_csv(start: Start) -> None:
    status, text = watched(start)
    assert status == ExitCode.FINISHED
    assert "Reached the maximum of 5 steps" in text
    assert len(start.run.loss_log.read_text().splitlines()) == 6
    assert len(list(start.run.tensorboard.iterdir())) == 1


def test_files_that_cannot_be_written_are_told_once_and_end_nothing(start: Start) -> None:
    start.run.training_logs.write_text("a file where the folder should be")
    status, text = watched(start)
    assert status == ExitCode.FINISHED
    assert text.count("Cannot write") == 1
    assert len(list(start.run.tensorboard.iterdir())) == 1


def test_the_exit_status_is_the_supervisors(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    status, _ = watched(start, failure=("disk_full", {"path": "x"}, ExitCode.NO_RESOURCE))
    assert status == 6
    assert "The disk is full" in capsys.readouterr().err


def test_a_screen_that_goes_away_ends_nothing(start: Start) -> None:
    class Closed(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(5, "Input/output error")

    supervisor = FakeSupervisor(start)
    screen = LastingScreen(PlainScreen(Closed()))
    assert watch(start, supervisor, words=Words("en"), command="x", verbose=False, screen=screen) == 0
    assert len(start.run.loss_log.read_text().splitlines()) == 6
