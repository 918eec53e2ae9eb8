"""Signals, deaths and stragglers: a real supervisor process over a small real child; no torch anywhere."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lorasmith.errors import ExitCode
from lorasmith.events import RunStopped, WorkerEnded
from lorasmith.ledger import read_events
from lorasmith.run_folder import RunFolder
from tests.runs.workshop import tree

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "lora_output")


class Process:
    """A supervisor in a process of its own, over a child in another."""

    def __init__(self, mode: str, run: RunFolder, count: int) -> None:
        command = [sys.executable, "-m", "tests.runtime.watch_child", mode, str(run.root), str(count)]
        self.run = run
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.lines: list[str] = []

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in (self.process.pid, self.worker_pid()):
            if pid and _alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def worker_pid(self) -> int:
        path = self.run.root / "pid"
        return int(path.read_text()) if path.exists() else 0

    def read_until(self, start: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.strip())
            if line.startswith(start):
                return
        raise AssertionError(f"{start} was never said: {self.lines}")

    def end(self) -> int:
        out, _ = self.process.communicate(timeout=30)
        self.lines += out.split("\n")[:-1]
        assert self.process.returncode == 0
        assert not _alive(self.worker_pid())
        assert not self.run.lock.exists()
        assert not self.run.staging.exists()
        return int(self.lines[-1])


def _alive(pid: int) -> bool:
    if pid == 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_a_stop_request(run: RunFolder, number: signal.Signals) -> None:
    with Process("obedient", run, 1000) as watched:
        watched.read_until("StepCompleted 2")
        watched.process.send_signal(number)
        assert watched.end() == ExitCode.STOPPED
        stopped = [event for event in read_events(run.ledger) if isinstance(event, RunStopped)]
        assert [event.reason for event in stopped] == ["asked"]
        assert not run.stop_request.exists()


def test_a_second_signal_kills(run: RunFolder) -> None:
    with Process("deaf", run, 100_000) as watched:
        watched.read_until("StepCompleted 2")
        watched.process.send_signal(signal.SIGINT)
        watched.read_until("StepCompleted")
        time.sleep(0.3)
        assert watched.process.poll() is None
        watched.process.send_signal(signal.SIGINT)
        assert watched.end() == ExitCode.STOPPED
        ended = [event for event in read_events(run.supervisor_log) if isinstance(event, WorkerEnded)]
        assert [event.status for event in ended] == [-signal.SIGKILL]


@pytest.mark.parametrize(
    ("mode", "exit_code"),
    [
        ("obedient", ExitCode.FINISHED),
        ("dies", ExitCode.CRASHED),
        ("silent", ExitCode.NO_RESOURCE),
        ("lingers", ExitCode.FINISHED),
    ],
)
def test_ends(run: RunFolder, mode: str, exit_code: ExitCode) -> None:
    with Process(mode, run, 5) as watched:
        assert watched.end() == exit_code
        completed = [line for line in watched.lines if line.startswith("StepCompleted")]
        assert completed == [f"StepCompleted {step}" for step in range(1, 4 if mode == "dies" else 6)]
        assert sum(line.startswith("CacheProgress") for line in watched.lines) == 1


def test_killed_before_there_was_a_run(run: RunFolder) -> None:
    with Process("dies_early", run, 5) as watched:
        assert watched.end() == ExitCode.CRASHED
        assert tree(run.root.parent) == {}


def test_a_worker_whose_supervisor_was_killed_leaves(run: RunFolder) -> None:
    with Process("obedient", run, 100_000) as watched:
        watched.read_until("StepCompleted 2")
        watched.process.kill()
        watched.process.wait()
        give_up_at = time.monotonic() + 10
        while not any(isinstance(event, RunStopped) for event in read_events(run.ledger)):
            assert time.monotonic() < give_up_at
            time.sleep(0.02)
        (stopped,) = [event for event in read_events(run.ledger) if isinstance(event, RunStopped)]
        assert (stopped.reason, stopped.exit_code) == ("asked", ExitCode.STOPPED)
