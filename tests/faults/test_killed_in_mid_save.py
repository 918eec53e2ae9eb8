"""A worker killed while it writes leaves half a file or folder under a hidden name; the next start takes it away."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lorasmith.errors import ExitCode
from tests.end_to_end.workshop import Workshop, stage

PROJECT = Path(__file__).parents[2]
STEPS = 3
WORKER = """
import os, signal, sys
from pathlib import Path
from lorasmith.runs import durable
from lorasmith.runtime import worker
from lorasmith.session import checkpoint

victim, real = sys.argv[1], durable.write_durably

def write_durably(path, data):
    if victim in str(path):
        real(path, data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    real(path, data)

durable.write_durably = checkpoint.write_durably = write_durably
sys.exit(worker.main(sys.argv[2:]))
"""


@pytest.mark.slow  # the fault points have it in a process that is forked
@pytest.mark.skipif(sys.platform == "win32", reason="nobody is killed like this there")
@pytest.mark.parametrize(
    ("victim", "left"),
    [
        ("optimizer.pt", ".state_*.tmp/optimizer.pt"),
        (".last.safetensors", ".last.safetensors.*.tmp"),
    ],
)
def test_what_is_half_written_is_gone_after_the_next_start(
    make_workshop: Callable[[str], Workshop], victim: str, left: str
) -> None:
    undisturbed, workshop = make_workshop("undisturbed"), make_workshop("killed")
    values = {("cadence", "save_every"): 1, ("adapter", "rank"): 1}
    undisturbed.new(STEPS, values)
    workshop.new(1, values)
    arguments = [str(workshop.run.root), "--attempt", "2", "--stop-at", str(STEPS)]
    start = workshop.start_new(STEPS, values)
    stage(start)
    command = [sys.executable, "-c", WORKER, victim, *arguments, "--resume", str(workshop.state_folder())]
    killed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list(workshop.run.root.glob(left))) == 1
    mine = workshop.run.root / ".mine.tmp"
    mine.touch()
    outcome = workshop.go_on(None)
    assert outcome.exit_code == ExitCode.FINISHED
    assert list(workshop.run.root.glob(".*")) == [mine]
    assert workshop.digest() == undisturbed.digest()
    assert workshop.losses() == undisturbed.losses()
