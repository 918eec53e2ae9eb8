"""Runs in fresh processes with the threads that a person has, as most tests do not: bytes depend on the process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from lorasmith.runs.ledger import read_events, steps
from tests.end_to_end.workshop import KEPT, Workshop

PROJECT = Path(__file__).parents[2]


def train(workshop: Workshop, *arguments: str, threads: int = 2, around: Mapping[str, str] | None = None) -> None:
    """Trains as a person does, in a process of its own."""
    command, environment = command_of(workshop, *arguments), environment_of(threads, around or {})
    done = subprocess.run(command, cwd=workshop.folder, env=environment, capture_output=True, timeout=1000)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()


def command_of(workshop: Workshop, *arguments: str) -> list[str]:
    model = ["--base-model", str(workshop.base_model)] if "--new" in arguments else []
    return [sys.executable, str(PROJECT / "train_lora.py"), *model, *arguments]


def environment_of(threads: int, around: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    return {**inherited, "OMP_NUM_THREADS": str(threads), **around}


def train_killed_at(workshop: Workshop, step: int, *arguments: str) -> None:
    """Kills the supervisor once that step is recorded, and the worker is in the next. At the end of that it sees it,
    saves and leaves: the next start may meet it."""
    around = {"PYTHONPATH": str(KEPT), "KEPT_IN": str(step + 1)}
    command, environment = command_of(workshop, *arguments), environment_of(2, around)
    supervisor = subprocess.Popen(
        command, cwd=workshop.folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    give_up_at = time.monotonic() + 600
    while not steps(read_events(workshop.run.ledger))[step - 1 :]:
        assert supervisor.poll() is None and time.monotonic() < give_up_at
        time.sleep(0.01)
    supervisor.send_signal(signal.SIGKILL)
    supervisor.wait()
