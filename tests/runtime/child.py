"""Stands in for the worker as a process of its own: `python -m tests.runtime.child MODE RUN --attempt K --stop-at N …`.

Takes the run's place and completes steps until it is asked to stop or has done them all; no torch. MODE says what is
wrong with it: obedient, deaf (hears nothing), lingers (says it is done and stays), dies, dies_early, silent.
"""

import argparse
import os
import signal
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from lorasmith.control import STOP_SIGNALS, StopFlag
from lorasmith.errors import ExitCode
from lorasmith.events import CacheProgress, RunStarted, RunStopped, StepCompleted
from lorasmith.ledger import Ledger
from lorasmith.promotion import promote
from lorasmith.run_folder import RunFolder

STEP_SECONDS = 0.02


def main(mode: str, run: RunFolder, *, attempt: int, stop_at: int, supervisor: int) -> int:
    stop = StopFlag(run, attempt, supervisor_pid=supervisor)
    _hear(signal.SIG_IGN if mode == "deaf" else lambda *_: stop.set())
    (run.staging / "pid").write_text(str(os.getpid()))
    if mode == "dies_early":
        os.kill(os.getpid(), signal.SIGKILL)
    with Ledger(run.early_ledger) as early:
        early.append(CacheProgress(attempt=attempt, time=time.time(), done=1, total=1))
    said = run.early_ledger.read_bytes()
    promote(run, now=datetime.now())
    run.ledger.write_bytes(said)
    with Ledger(run.ledger) as ledger:
        now = time.time()
        ledger.append(
            RunStarted(attempt=attempt, time=now, identity="", resumed_from=None, stop_at=stop_at, settings={})
        )
        step = 0
        while step < stop_at and (mode == "deaf" or not stop.requested()):
            time.sleep(STEP_SECONDS)
            step += 1
            ledger.append(_completed(attempt, step))
            if mode == "dies" and step == 3:
                os.kill(os.getpid(), signal.SIGKILL)
        if mode == "silent":
            return int(ExitCode.NO_RESOURCE)
        code = ExitCode.FINISHED if step == stop_at else ExitCode.STOPPED
        reason = "reached" if step == stop_at else "asked"
        ledger.append(RunStopped(attempt=attempt, time=time.time(), step=step, reason=reason, exit_code=code))
    if mode in ("lingers", "deaf"):
        _hear(signal.SIG_IGN)
        time.sleep(60)
    return int(code)


def _hear(handler: Any) -> None:
    for name in STOP_SIGNALS:
        if name in signal.Signals.__members__:
            signal.signal(signal.Signals[name], handler)


def _completed(attempt: int, step: int) -> StepCompleted:
    return StepCompleted(
        attempt=attempt,
        time=time.time(),
        step=step,
        epoch=1,
        loss=1.0,
        lr={"denoiser": 1e-4},
        grad_norm=1.0,
        example_ids=[0],
        seconds=STEP_SECONDS,
        peak_memory=0,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("mode")
    parser.add_argument("run", type=Path)
    parser.add_argument("--attempt", type=int)
    parser.add_argument("--stop-at", type=int)
    parser.add_argument("--supervisor", type=int)
    parser.add_argument("--resume", type=Path)
    found = parser.parse_args()
    sys.exit(
        main(
            found.mode,
            RunFolder(found.run),
            attempt=found.attempt,
            stop_at=found.stop_at,
            supervisor=found.supervisor,
        )
    )
