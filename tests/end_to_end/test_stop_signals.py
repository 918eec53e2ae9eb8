"""Signals, deaths and stragglers: a real supervisor process over a small real child; no torch anywhere."""

import signal
import time
from pathlib import Path

import pytest

from lorasmith.errors import ExitCode
from lorasmith.runs.events import RunStopped, WorkerEnded
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import read_events
from lorasmith.runtime.stop_signals import SAME_PRESS_SECONDS
from tests.end_to_end.watched import PATIENCE_SECONDS, Process
from tests.end_to_end.workshop import tree

CI = pytest.mark.ci


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "lora_output")


@pytest.mark.parametrize(
    "number", [signal.SIGINT, *(pytest.param(one, marks=CI) for one in (signal.SIGTERM, signal.SIGHUP))]
)
def test_a_signal_is_a_stop_request(run: RunFolder, number: signal.Signals) -> None:
    with Process("obedient", run, 100_000) as watched:
        watched.read_until("StepCompleted 2")
        watched.process.send_signal(number)
        assert watched.end() == ExitCode.STOPPED
        stopped = [event for event in read_events(run.ledger) if isinstance(event, RunStopped)]
        assert [event.reason for event in stopped] == ["asked"]
        assert not run.stop_request.exists()


def test_a_second_ctrl_c_kills(run: RunFolder) -> None:
    with Process("deaf", run, 100_000) as watched:
        watched.read_until("StepCompleted 2")
        watched.process.send_signal(signal.SIGINT)
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while not run.stop_request.exists():  # it has heard the first
            assert time.monotonic() < give_up_at
            time.sleep(0.02)
        watched.read_until("StepCompleted")
        time.sleep(SAME_PRESS_SECONDS + 0.1)
        assert watched.process.poll() is None
        watched.process.send_signal(signal.SIGINT)
        assert watched.end(is_killed=True) == ExitCode.STOPPED
        assert [event.status for event in watched.said(WorkerEnded)] == [-signal.SIGKILL]


@pytest.mark.ci
def test_what_comes_in_twos_by_itself_is_one_stop_request(run: RunFolder) -> None:
    """A terminal that is closed; a launcher that passes on a Ctrl+C which came to the whole group already."""
    with Process("obedient", run, 100_000, press=PATIENCE_SECONDS) as watched:  # this test may be paused between two
        watched.read_until("StepCompleted 2")
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
            watched.process.send_signal(number)
        assert watched.end() == ExitCode.STOPPED
        assert [event.status for event in watched.said(WorkerEnded)] == [ExitCode.STOPPED]


@pytest.mark.ci
@pytest.mark.parametrize(
    ("mode", "exit_code"),
    [("obedient", ExitCode.FINISHED), ("silent", ExitCode.NO_RESOURCE), ("lingers", ExitCode.FINISHED)],
)
def test_ends(run: RunFolder, mode: str, exit_code: ExitCode) -> None:
    with Process(mode, run, 5) as watched:
        assert watched.end() == exit_code
        assert watched.steps() == [1, 2, 3, 4, 5]
        assert sum(line.startswith("CacheProgress") for line in watched.lines) == 1


@pytest.mark.ci
def test_killed_before_there_was_a_run(run: RunFolder) -> None:
    with Process("dies_early", run, 5) as watched:
        assert watched.end() == ExitCode.CRASHED
        assert sum(line.startswith("WorkerStarted") for line in watched.lines) == 4
        assert tree(run.root.parent) == {}


def test_a_worker_whose_supervisor_was_killed_leaves(run: RunFolder) -> None:
    with Process("obedient", run, 100_000) as watched:
        watched.read_until("StepCompleted 2")
        watched.process.kill()
        watched.process.wait()
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while not any(isinstance(event, RunStopped) for event in read_events(run.ledger)):
            assert time.monotonic() < give_up_at
            time.sleep(0.02)
        (stopped,) = [event for event in read_events(run.ledger) if isinstance(event, RunStopped)]
        assert (stopped.reason, stopped.exit_code) == ("asked", ExitCode.STOPPED)
