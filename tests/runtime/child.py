"""Stands in for the worker as a process of its own: `python -m tests.runtime.child MODE RUN --attempt K --stop-at N …`.

Takes the run's place, completes steps, beats and saves a state at each step, until it is asked to stop or has done them
all; no torch. MODE says what is wrong with it: see MODES. Where it says "once", it is the first attempt alone.
"""

import argparse
import os
import signal
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from lorasmith.errors import ExitCode
from lorasmith.runs.events import CacheProgress, CheckpointSaved, RunStarted, RunStopped, StepCompleted
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import Ledger
from lorasmith.runs.locks import FolderLock
from lorasmith.runs.process_files import STOP_SIGNALS, HeartbeatWriter, StopFlag
from lorasmith.runs.promotion import promote
from lorasmith.runs.states import MANIFEST, OWN_FILES, find_states, manifest_bytes
from lorasmith.runtime.worker import _settle
from tests.runtime.hanging import hang_begins, stop_begins

STEP_SECONDS = 0.02
BAD_STEP = 3
MODES = {
    "obedient": "nothing",
    "deaf": "hears nothing",
    "lingers": "says it is done and stays",
    "dies": "dies at the bad step, once",
    "dies_always": "dies at the bad step",
    "moves_on": "dies after two steps of each attempt",
    "dies_early": "dies before it has a run",
    "silent": "says nothing of its end",
    "stops": "is stopped by a signal at the bad step, once",
    "sleeps": "sleeps in the bad step, once",
    "sleeps_always": "sleeps in the bad step",
    "sleeps_loading": "sleeps while it loads, once",
    "sleeps_saving": "sleeps while it saves, once",
    "waits_loading": "does not get beyond loading, and says that it was asked to stop",
    "spins": "beats, but completes nothing from the bad step on",
}


def main(mode: str, run: RunFolder, *, attempt: int, stop_at: int, supervisor: int, resume: Path | None) -> int:
    assert mode in MODES
    with FolderLock(run.worker_lock, wait_seconds=60, facts={"pid": os.getpid(), "attempt": attempt}):
        stop = StopFlag(run, attempt, supervisor_pid=supervisor)
        _hear(signal.SIG_IGN if mode == "deaf" else lambda *_: stop.set())
        return Child(mode, run, attempt, stop_at, stop).work(resume)


class Child:
    def __init__(self, mode: str, run: RunFolder, attempt: int, stop_at: int, stop: StopFlag) -> None:
        self.mode, self.run, self.attempt, self.stop_at, self.stop = mode, run, attempt, stop_at, stop

    def work(self, resume: Path | None) -> int:
        heart = HeartbeatWriter(self.run.staging / "heartbeat")
        heart.beat(0, "loading")
        if self.mode == "dies_early":
            os.kill(os.getpid(), signal.SIGKILL)
        self.sleep_in("sleeps_loading")
        with Ledger(self.run.early_ledger) as early:
            early.append(CacheProgress(attempt=self.attempt, time=time.time(), done=1, total=1))
            if self.mode == "waits_loading":
                while not self.stop.requested():
                    time.sleep(0.01)
                early.append(RunStopped(attempt=self.attempt, time=time.time(), step=None, reason="asked", exit_code=5))
                early.sync()
                return int(ExitCode.STOPPED)
        heart.close()
        step = self.begin(resume)
        self.heart = HeartbeatWriter(self.run.heartbeat)
        with Ledger(self.run.ledger) as self.ledger:
            started: dict[str, Any] = {"identity": "", "resumed_from": step if resume else None}
            self.say(RunStarted, stop_at=self.stop_at, settings={}, **started)
            if resume is None:
                self.save(0)
            first = step
            while step < self.stop_at and (self.mode == "deaf" or not self.stop.requested()):
                step += 1
                self.step(step, first)
                if self.mode == "sleeps_saving" and step == BAD_STEP:
                    self.heart.beat(step, "saving")
                    self.sleep_in("sleeps_saving")
                self.save(step)
            return self.end(step)

    def begin(self, resume: Path | None) -> int:
        """The step that it goes on from."""
        said = self.run.early_ledger.read_bytes()
        if resume is not None:
            with self.run.ledger.open("ab") as ledger:
                ledger.write(said)
            self._say_who_it_is()
            for path in self.run.staging.iterdir():
                path.unlink()
            self.run.staging.rmdir()
            return next(state.step for state in find_states(self.run.root)[0] if state.path == resume)
        promote(self.run, now=datetime.now())
        self._say_who_it_is()
        self.run.ledger.write_bytes(said)
        return 0

    def _say_who_it_is(self) -> None:
        (self.run.root / "pid").write_text(str(os.getpid()))

    def step(self, step: int, first: int) -> None:
        self.heart.beat(step - 1, "step")
        found_inf = step == BAD_STEP
        if (self.mode == "dies_always" and found_inf) or (self.mode == "moves_on" and step == first + 3):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.mode == "stops" and found_inf and self.attempt == 1:
            stop_begins()
            os.kill(os.getpid(), signal.SIGSTOP)
        if found_inf:
            self.sleep_in("sleeps")
            self.sleep_in("sleeps_always")
        while self.mode == "spins" and step >= BAD_STEP:
            hang_begins()
            time.sleep(STEP_SECONDS)
            self.heart.beat(step - 1, "step")
        time.sleep(STEP_SECONDS)
        self.heart.beat(step - 1, "step", micro_batches=1)
        self.say(
            StepCompleted,
            step=step,
            epoch=1,
            loss=1.0,
            lr={"denoiser": 1e-4},
            grad_norm=1.0,
            example_ids=[0],
            seconds=STEP_SECONDS,
            peak_memory=0,
        )
        self.heart.beat(step, "step")
        if self.mode == "dies" and found_inf and self.attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def end(self, step: int) -> int:
        if self.mode == "silent":
            return int(ExitCode.NO_RESOURCE)
        code = ExitCode.FINISHED if step == self.stop_at else ExitCode.STOPPED
        self.say(RunStopped, step=step, reason="asked" if code else "reached", exit_code=code)
        if self.mode in ("lingers", "deaf"):
            _hear(signal.SIG_IGN)
            time.sleep(60)
        return int(code)

    def save(self, step: int) -> None:
        folder = self.run.root / f".state_{step}.{os.getpid()}.tmp"
        folder.mkdir()
        for name in OWN_FILES:
            (folder / name).write_text(str(step))
        (folder / MANIFEST).write_bytes(manifest_bytes(folder, step=step, identity=""))
        folder.rename(self.run.root / f"state_{self.attempt}_{step}")
        self.say(CheckpointSaved, step=step, path=folder.name, sha256="", seconds=0.0)

    def say(self, kind: Any, **fields: Any) -> None:
        self.ledger.append(kind(attempt=self.attempt, time=time.time(), **fields))

    def sleep_in(self, mode: str) -> None:
        if self.mode == mode and (self.attempt == 1 or mode.endswith("_always")):
            sleep_in_forward()


def sleep_in_forward() -> None:
    """Found by name in the stack."""
    hang_begins()
    while True:
        time.sleep(60)


def _hear(handler: Any) -> None:
    for name in STOP_SIGNALS:
        if name in signal.Signals.__members__:
            signal.signal(signal.Signals[name], handler)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("mode")
    parser.add_argument("run", type=Path)
    parser.add_argument("--attempt", type=int)
    parser.add_argument("--stop-at", type=int)
    parser.add_argument("--supervisor", type=int)
    parser.add_argument("--resume", type=Path)
    found = parser.parse_args()
    _settle(["x", "--attempt", "1", "--stop-at", "1"])
    sys.exit(
        main(
            found.mode,
            RunFolder(found.run),
            attempt=found.attempt,
            stop_at=found.stop_at,
            supervisor=found.supervisor,
            resume=found.resume,
        )
    )
