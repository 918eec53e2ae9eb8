"""P2 through the mission's own commands: fresh processes, options as a person types them, stops by signal."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from lorasmith.runs.ledger import read_events, steps
from lorasmith.runtime import supervisor as supervisor_module
from lorasmith.runtime.supervisor import Supervisor
from lorasmith.ui.cli import main
from tests.end_to_end.workshop import KEPT, InProcess, Workshop

MakeWorkshop = Callable[[str], Workshop]
PROJECT = Path(__file__).parents[2]
PATIENCE_SECONDS = 280.0  # for a start of a Python of its own; an undisturbed one takes a few
STEPS = 12
PRODIGY = ("--optimizer", "prodigy", "--lr", "1")
COSINE = ("--lr-schedule", "cosine", "--lr-horizon", str(STEPS))
RESTARTS = ("--lr-schedule", "cosine_with_restarts:2", "--lr-horizon", str(STEPS), "--lr-warmup", "3")
LINEAR = ("--lr-schedule", "linear", "--lr-horizon", str(STEPS))
UNSEEN = ("--evaluate-every", "0")
ROWS: dict[str, tuple[int, tuple[str, ...]]] = {
    "adamw-cosine-dropout": (5, (*COSINE, "--dropout", "0.2", "--batch-size", "2", *UNSEEN)),
    "adamw-everything": (7, (*RESTARTS, "--accumulate", "3", "--batch-size", "2", "--gradient-checkpointing",
                             "--train-text-encoder", "--text-encoder-lr", "5e-5", "--dropout", "0.1",
                             "--evaluate-examples", "1")),
    "adamw-fp16": (1, ("--precision", "fp16", "--max-grad-norm", "0", "--rank", "4", "--alpha", "2",
                       "--optimizer-option", "betas=[0.8, 0.95]", "--optimizer-option", "weight_decay=0.1", *UNSEEN)),
    "adafactor-linear": (10, ("--optimizer", "adafactor", *LINEAR, *UNSEEN)),
    "lion-bf16": (8, ("--optimizer", "lion", "--precision", "bf16", *UNSEEN)),
    "prodigy-cosine": (2, (*PRODIGY, *COSINE, "--train-text-encoder", *UNSEEN)),
}  # fmt: skip
IN_PROCESSES = "adamw-everything"


def typed(workshop: Workshop, *arguments: str) -> list[str]:
    model = ["--base-model", str(workshop.base_model)] if "--new" in arguments else []
    return [sys.executable, str(PROJECT / "train_lora.py"), *arguments, *model]


def run(workshop: Workshop, *arguments: str) -> int:
    command = typed(workshop, *arguments)
    return subprocess.run(command, cwd=workshop.folder, capture_output=True, timeout=PATIENCE_SECONDS).returncode


def run_here(workshop: Workshop, *arguments: str) -> int:
    """The same line without processes of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workshop.folder)
        patch.setattr(supervisor_module, "Supervisor", partial(Supervisor, launch=InProcess))
        return main(["train", *typed(workshop, *arguments)[2:]])


def interrupted(workshop: Workshop, at_least: int, *arguments: str) -> int:
    """Asked to stop by SIGTERM once `at_least` steps are done; the exit code. The worker stays in the next step until
    it is asked: this test may be paused for longer than the whole run takes."""
    search = os.pathsep.join([str(KEPT), *filter(None, [os.environ.get("PYTHONPATH")])])
    kept = {"PYTHONPATH": search, "KEPT_IN": str(at_least + 1), "KEPT_UNTIL": str(workshop.run.stop_request)}
    child = subprocess.Popen(
        typed(workshop, *arguments),
        cwd=workshop.folder,
        env={**os.environ, **kept},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while len(steps(read_events(workshop.run.ledger))) < at_least:
        assert child.poll() is None and time.monotonic() < give_up_at
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGTERM)
    return child.wait(timeout=PATIENCE_SECONDS)


@pytest.mark.ci
@pytest.mark.parametrize("row", ROWS)
def test_two_starts_equal_one(make_workshop: MakeWorkshop, row: str) -> None:
    """The run that is never interrupted has no processes of its own."""
    first, options = ROWS[row]
    straight, pieces = make_workshop("straight"), make_workshop("pieces")
    start = run if row == IN_PROCESSES else run_here
    assert run_here(straight, "--new", "--steps", str(STEPS), *options) == 0
    assert start(pieces, "--new", "--steps", str(first), *options) == 0
    assert start(pieces, "--continue", "--steps", str(STEPS - first)) == 0
    assert pieces.losses() == straight.losses()
    assert pieces.digest() == straight.digest()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGTERM ends a process at once there")
def test_stopped_by_a_signal_and_finished_without_a_word(make_workshop: MakeWorkshop) -> None:
    """Without a terminal, `--continue` does what is owed."""
    straight, stopped = make_workshop("straight"), make_workshop("stopped")
    options = ("--dropout", "0.1", "--lr-schedule", "cosine")
    assert run(straight, "--new", "--steps", "150", *options) == 0
    assert interrupted(stopped, 5, "--new", "--steps", "150", *options) == 5
    assert stopped.train_state()["step"] == 6
    assert run(stopped, "--continue") == 0
    assert stopped.train_state()["step"] == 150
    assert stopped.digest() == straight.digest()
