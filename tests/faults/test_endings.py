"""How a run ends that cannot end well, or does not want to: through the command line, to exit code and report.

(tests/end_to_end/test_supervision.py has the same without command line and report, and more of it.) `-m ci` over
tests/runtime/child.py, which takes no torch to start; `-m long` has the worker itself.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from lorasmith import faults
from lorasmith.errors import ExitCode
from lorasmith.runs.events import Event, GivenUp, LimitRaised, RunStopped, WorkerEnded, WorkerHung, WorkerRestarted
from lorasmith.runs.ledger import read_events, steps
from tests.end_to_end.test_command_line import PROJECT
from tests.end_to_end.workshop import Workshop
from tests.faults.unlucky_train import FIRST_TIMES

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="signals"),
    pytest.mark.timeout(1500),  # each program has its own
]

PATIENCE_SECONDS = 500.0
STALL = 4.0  # seconds; a worker beats twenty times in each
LEAVES_WITHIN = 60.0  # seconds after it said that it is done; where nothing else is going on in three
LONG = pytest.mark.long


@dataclass(frozen=True)
class Ending:
    """What came of a run."""

    exit_code: int
    seconds: float
    said: list[Event]  # by supervisor and worker
    report: dict[str, Any]
    steps: list[int]  # as they were completed, those done again too

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.said if isinstance(event, kind)]


def ended(workshop: Workshop, count: int, *options: str, how: str = "", fault: str = "") -> Ending:
    """A new run of so many steps, from the command line to its end; there must be a report, whole."""
    program = ["-m", "tests.faults.unlucky_train", how] if how else ["-m", "lorasmith", "train"]
    typed = ["--new", "--steps", str(count), "--base-model", str(workshop.base_model), "--evaluate-every", "0"]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, *program, *typed, "--save-every", "1", "--lang", "en", *options],
        cwd=workshop.folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT), faults.VARIABLE: fault},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    seconds = time.monotonic() - began
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    run = workshop.run
    assert not run.lock.exists() and not run.worker_lock.exists() and not run.staging.exists()
    reports = {suffix: list(run.training_logs.glob(f"lora_training_*.{suffix}")) for suffix in ("json", "html", "png")}
    assert [len(found) for found in reports.values()] == [1, 1, 1], (reports, done.stdout, done.stderr)
    said = [*read_events(run.supervisor_log), *read_events(run.ledger)]
    report = json.loads(reports["json"][0].read_bytes())
    return Ending(done.returncode, seconds, said, report, [one.step for one in steps(read_events(run.ledger))])


def of_both(mode: str, worker: str) -> Sequence[Any]:
    """The child on every push, the worker in the long suite."""
    return [
        pytest.param(f"child:{mode}", id="child", marks=pytest.mark.ci),
        pytest.param(f"worker:{worker}", id="worker", marks=LONG),
    ]


@pytest.mark.ci
def test_one_that_is_done_and_does_not_leave(workshop: Workshop) -> None:
    """The worker itself, and the program as it is: its last word is on the disk, and its process hangs."""
    ending = ended(workshop, 2, fault="worker.told:1:hang")
    assert ending.exit_code == ExitCode.FINISHED
    (last_word,), (gone,) = ending.of(RunStopped), ending.of(WorkerEnded)
    assert last_word.exit_code == ExitCode.FINISHED
    assert gone.status == -9, "it heard nothing else"
    assert 2.0 <= gone.time - last_word.time <= LEAVES_WITHIN
    assert ending.of(WorkerRestarted) == ending.of(WorkerHung) == []
    assert ending.report["is_finished"] and ending.report["done"] == 2
    assert workshop.run.export("last").exists()


@pytest.mark.parametrize("how", of_both("spins", "spin"))
def test_a_heart_that_beats_while_no_step_is_completed(workshop: Workshop, how: str) -> None:
    """The mission's third test: ended at the limit of the whole run, not started again, and reported."""
    limit = FIRST_TIMES * STALL
    ending = ended(workshop, 5, "--stall-timeout", str(STALL), "--max-seconds-per-step", "0.01", how=how)
    assert ending.exit_code == ExitCode.STUCK
    (given_up,) = ending.of(GivenUp)
    assert (given_up.code, given_up.exit_code, given_up.fields["step"]) == ("run_limit", ExitCode.STUCK, 2)
    assert limit - 1 <= given_up.fields["seconds"] <= limit + 5
    assert ending.of(WorkerHung) == ending.of(WorkerRestarted) == ending.of(LimitRaised) == []
    assert ending.steps == [1, 2]
    assert (ending.report["done"], ending.report["is_finished"]) == (2, False)
    assert ending.report["ending"]["code"] == "run_limit"


@pytest.mark.parametrize("how", of_both("dies_always", "kill_same"))
def test_a_crash_that_comes_back_at_the_same_step(workshop: Workshop, how: str) -> None:
    ending = ended(workshop, 5, how=how)
    assert ending.exit_code == ExitCode.CRASHED
    assert [(one.after, one.in_vain) for one in ending.of(WorkerRestarted)] == [("crashed", n) for n in (1, 2, 3)]
    (given_up,) = ending.of(GivenUp)
    assert (given_up.code, given_up.fields["restarts"]) == ("crashed_again", 3)
    assert ending.steps == [1, 2], "saved at each step: none is done again"
    assert (ending.report["done"], ending.report["is_finished"]) == (2, False)
    assert ending.report["interruptions"] == 4


@pytest.mark.ci
def test_a_crash_that_moves_on_each_time(workshop: Workshop) -> None:
    check_that_it_moves_on(workshop, "child:moves_on")


@LONG
def test_the_bytes_of_one_that_died_six_times(make_workshop: Callable[[str], Workshop]) -> None:
    undisturbed, unlucky = make_workshop("undisturbed"), make_workshop("unlucky")
    assert ended(undisturbed, 13).exit_code == ExitCode.FINISHED
    check_that_it_moves_on(unlucky, "worker:kill_later")
    assert unlucky.digest() == undisturbed.digest()


def check_that_it_moves_on(workshop: Workshop, how: str) -> None:
    ending = ended(workshop, 13, how=how)
    assert ending.exit_code == ExitCode.FINISHED
    assert [one.in_vain for one in ending.of(WorkerRestarted)] == [1] * 6, "more than three, none of them in vain"
    assert ending.of(GivenUp) == []
    assert ending.steps == list(range(1, 14))
    assert (ending.report["done"], ending.report["is_finished"]) == (13, True)


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="the size of a pipe is set")
@pytest.mark.parametrize("is_heard", [True, False])
def test_one_that_nobody_listens_to(workshop: Workshop, is_heard: bool) -> None:
    """Its screen is a pipe that is full from the start, as a pager's that nobody scrolls: its hang is found all the
    same, it ends, and what it had to say waits until somebody reads it, or asks it to leave."""
    fcntl = pytest.importorskip("fcntl")
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as out:
        size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        os.write(writer, b"x" * size)
        typed = ["--new", "--steps", "5", "--base-model", str(workshop.base_model), "--evaluate-every", "0"]
        program = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.unlucky_train", "child:stops", *typed, "--stall-timeout", "0.4"],
            cwd=workshop.folder,
            env={**os.environ, "PYTHONPATH": str(PROJECT), "LORASMITH_LANG": "en"},
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
        )
        os.close(writer)
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while not list(workshop.run.training_logs.glob("lora_training_report_*.html")):
            assert program.poll() is None and time.monotonic() < give_up_at
            time.sleep(0.05)
        assert not workshop.run.lock.exists(), "the run is over"
        if is_heard:
            told = out.read().decode().removeprefix("x" * size)
            assert told.index("no sign of life") < told.index("Reached the maximum of 5") < told.index("Report: "), told
        else:
            program.terminate()
        assert program.wait(timeout=PATIENCE_SECONDS) == ExitCode.FINISHED
    assert [one.step for one in steps(read_events(workshop.run.ledger))] == [1, 2, 3, 4, 5]
    assert [one.is_stopped for one in read_events(workshop.run.supervisor_log) if isinstance(one, WorkerHung)] == [True]
