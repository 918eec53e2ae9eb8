"""A real supervisor process over a small real child, as the tests of signals, deaths and hangs need it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lorasmith.runs.events import Event
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import read_events

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 240.0  # for a start: one takes a second where nothing else wants the processor


class Process:
    """A supervisor in a process of its own, over a child in another. `watch`: of WatchConfig."""

    def __init__(self, mode: str, run: RunFolder, count: int, **watch: float) -> None:
        settings = [f"{name}={value}" for name, value in watch.items()]
        command = [sys.executable, "-m", "tests.runtime.watch_child", mode, str(run.root), str(count), *settings]
        self.run = run
        self.began = time.monotonic()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.lines: list[str] = []

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in (self.process.pid, self.worker_pid()):
            if pid and alive(pid):
                with suppress(ProcessLookupError):  # it has just ended
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def worker_pid(self) -> int:
        path = self.run.root / "pid"
        return int(path.read_text() or 0) if path.exists() else 0

    def read_until(self, start: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.strip())
            if line.startswith(start):
                return
        raise AssertionError(f"{start} was never said: {self.lines}")

    def end(self, *, is_killed: bool = False) -> int:
        """`is_killed`: a worker that was killed may leave half a state, which the next start removes."""
        out, _ = self.process.communicate(timeout=PATIENCE_SECONDS)
        self.lines += out.split("\n")[:-1]
        assert self.process.returncode == 0
        assert not alive(self.worker_pid())
        assert not self.run.lock.exists()
        assert not self.run.worker_lock.exists()
        assert not self.run.staging.exists()
        assert is_killed or not list(self.run.root.glob(".*.tmp"))
        return int(self.lines[-1])

    def said(self, kind: type[Event]) -> list[Any]:
        """By the supervisor, into its own log."""
        return [event for event in read_events(self.run.supervisor_log) if isinstance(event, kind)]

    def steps(self) -> list[int]:
        """As they were completed, those done again too."""
        return [int(line.split()[1]) for line in self.lines if line.startswith("StepCompleted")]


def alive(pid: int) -> bool:
    """Whether there is such a process; a dead one that nobody has asked after is none."""
    if pid == 0:
        return False
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # it ended between the two looks, or there is no /proc here
        return not Path("/proc/self").exists()


def leaves(pid: int) -> bool:
    """Whether a process ends: one that has let go of its lock may still take a moment."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while alive(pid):
        if time.monotonic() >= give_up_at:
            return False
        time.sleep(0.02)
    return True
