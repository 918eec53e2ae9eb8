from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorasmith.config import RunConfig
from lorasmith.errors import ExitCode
from lorasmith.reports import making
from lorasmith.runs.events import Event, RunStopped, WorkerStarted
from lorasmith.runs.layout import RunFolder
from lorasmith.runtime.preflight import Start
from lorasmith.ui import watching
from lorasmith.ui.render import Display
from lorasmith.ui.screens import LastingScreen, PlainScreen
from lorasmith.ui.translator import Translator
from lorasmith.ui.watching import watch
from tests.ui.fake_engine import FakeSupervisor


@pytest.fixture
def start(tmp_path: Path) -> Start:
    return Start(RunFolder(tmp_path / "lora_output"), RunConfig(), 5, True, 0)


def watched(start: Start, **options: object) -> tuple[int, str]:
    out = io.StringIO()
    supervisor = FakeSupervisor(start, **options)
    status = watch(
        start, supervisor, words=Translator("en"), command="lorasmith train", verbose=False, screen=PlainScreen(out)
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
    assert text.count("Cannot write `") == 1
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
    assert watch(start, supervisor, words=Translator("en"), command="x", verbose=False, screen=screen) == 0
    assert len(start.run.loss_log.read_text().splitlines()) == 6


def test_the_report_is_made_at_every_end_and_named_last(start: Start) -> None:
    for options in ({}, {"stop_after": 2}, {"failure": ("disk_full", {"path": "x"}, ExitCode.NO_RESOURCE)}):
        _, text = watched(start, **options)
        assert text.splitlines()[-3].startswith("Report: ")
    assert len(list(start.run.training_logs.glob("lora_training_report_*.html"))) == 3
    assert len(list(start.run.training_logs.glob("lora_training_curves_*.png"))) == 3


def test_an_end_before_the_run_took_its_place_makes_no_report(start: Start) -> None:
    class NeverBegun(FakeSupervisor):
        def _training(self, attempt: int, at: dict[str, Any]) -> Iterator[Event]:
            self.exit_code = ExitCode.BAD_INPUT
            yield RunStopped(**at, step=None, reason="failed", code="no_best_state", exit_code=2)

    out = io.StringIO()
    words = Translator("en")
    assert watch(start, NeverBegun(start), words=words, command="x", verbose=False, screen=PlainScreen(out)) == 2
    assert not start.run.training_logs.exists()
    assert "Report" not in out.getvalue()


@pytest.mark.parametrize("exit_code", [code for code in ExitCode if code not in (ExitCode.FINISHED, ExitCode.STOPPED)])
@pytest.mark.parametrize("is_new", [True, False])
def test_a_run_that_is_not_taken_up_again_has_its_report(start: Start, exit_code: ExitCode, is_new: bool) -> None:
    """Hung, crashed or without memory while it loads: what was refused before left no trace and gets none."""

    class Loading(FakeSupervisor):
        def events(self) -> Iterator[Event | None]:
            self.exit_code = exit_code
            yield WorkerStarted(attempt=2, time=0.0, worker_pid=1, supervisor_pid=2)

    watched(start)
    shutil.rmtree(start.run.training_logs)
    out, words = io.StringIO(), Translator("en")
    again = replace(start, is_new=is_new, first_step=5, stop_at=9)
    assert watch(again, Loading(again), words=words, command="x", verbose=False, screen=PlainScreen(out)) == exit_code
    was_refused = exit_code in (ExitCode.BAD_INPUT, ExitCode.LOCKED, ExitCode.NO_STATE)
    assert ("Report: " in out.getvalue()) == (not is_new and not was_refused)


def test_a_report_that_cannot_be_written_is_told_and_changes_no_exit_status(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(making, "write_atomically", full)
    status, text = watched(start)
    assert status == ExitCode.FINISHED
    assert text.count("Cannot write the report") == 3
    assert "Report: " not in text


def test_ctrl_c_while_the_report_is_made_leaves_it_out(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(making, "read_summary", interrupted)
    status, text = watched(start)
    assert status == ExitCode.FINISHED
    assert "The report was skipped" in text


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself these there")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_report_is_made_ends_nothing(
    start: Start, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    make_reports = making.make_reports

    def signalled(run: RunFolder, words: Translator) -> Any:
        os.kill(os.getpid(), number)
        return make_reports(run, words)

    monkeypatch.setattr(watching, "make_reports", signalled)
    status, text = watched(start)
    assert status == ExitCode.FINISHED
    assert "Report: " in text


@pytest.mark.parametrize("name", ["finish", "reported"])
def test_ctrl_c_when_the_run_is_over_changes_no_exit_status(
    start: Start, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Wherever it falls between the last event and the last line."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Display, name, interrupted)
    status, text = watched(start, stop_after=2)
    assert status == ExitCode.STOPPED
    assert "The report was skipped" in text


def test_ctrl_c_before_anything_is_watched_is_the_command_s(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    class Waiting(FakeSupervisor):
        def events(self) -> Iterator[Event | None]:
            raise KeyboardInterrupt
            yield

    with pytest.raises(KeyboardInterrupt):
        watch(
            start, Waiting(start), words=Translator("en"), command="x", verbose=False, screen=PlainScreen(io.StringIO())
        )


def test_nothing_that_draws_is_loaded_before_the_end() -> None:
    script = (
        "import lorasmith.ui.watching, sys; sys.exit(bool({'PIL', 'matplotlib', 'tensorboard'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
