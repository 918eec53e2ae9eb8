"""The real worker hangs under the real supervisor: it is found in time, its stack is kept, another goes on, same bytes.

(tests/end_to_end/test_supervision.py has the rules with a child without torch.)
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import IO, Any

import pytest

from lorasmith.errors import ExitCode
from lorasmith.runs.events import LimitRaised, StepCompleted, WorkerEnded, WorkerHung, WorkerRestarted
from lorasmith.runs.ledger import read_events
from lorasmith.runtime import processes
from lorasmith.runtime import supervisor as supervisor_module
from lorasmith.runtime.processes import Watchable, WorkerProcess, launch
from lorasmith.runtime.supervisor import Supervisor
from tests.end_to_end.workshop import Outcome, Workshop
from tests.faults.forked_worker import ForkedWorker
from tests.faults.harms import FIRST_STEPS, HANGS, SLOW, STEP_SECONDS, harm
from tests.runtime import hanging

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks, signals and pipes that Windows has not")
MakeWorkshop = Callable[[str], Workshop]
Launch = Callable[[list[str], IO[bytes]], Watchable]
Values = dict[tuple[str, str], Any]

COUNT = 5
SAVED: Values = {("cadence", "save_every"): 2}
EVALUATED: Values = {**SAVED, ("evaluation", "every"): 2, ("evaluation", "examples"): 1}
LATE_SECONDS = 5.0
IS_WHOLE = "FAULT_RUNS" not in os.environ
# The state that the second worker goes on from; while it loads there is none.
RESUMED_FROM = {"stop": 2, "sleep": 2, "save": 0, "export": 2, "evaluate": 2}


@pytest.fixture(autouse=True)
def only_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing else is held against a worker: on a busy machine it may be silent for longer while it loads or saves."""
    hanging.count_hangs_alone(monkeypatch, tmp_path / "hangs")


def forked(name: str) -> Launch:
    return partial(ForkedWorker, harm=harm(name))


def apart(name: str) -> Launch:
    """As the program does it: a Python of its own."""

    def launch_it(arguments: list[str], output: IO[bytes]) -> WorkerProcess:
        return launch([sys.executable, "-m", "tests.faults.harms", name, *arguments], output)

    return launch_it


def watched(workshop: Workshop, launch_it: Launch, values: Values, *, count: int = COUNT, **watch: float) -> Outcome:
    settings = {**values, **{("watch", name): value for name, value in watch.items()}}
    supervisor = Supervisor(workshop.start_new(count, settings), launch=hanging.launching(launch_it))
    events = [event for event in supervisor.events() if event is not None]
    return Outcome(supervisor.exit_code, events)


def check(make_workshop: MakeWorkshop, name: str, launch_it: Launch, stall: float) -> None:
    undisturbed, workshop = make_workshop("undisturbed"), make_workshop("hung")
    undisturbed.new(COUNT, SAVED)
    if name == "cache":
        (workshop.folder.parent / ".lorasmith_cache").unlink()  # beside the pictures: nothing is cached yet
    outcome = watched(workshop, launch_it, EVALUATED if name == "evaluate" else SAVED, stall_timeout=stall)
    _, phase, in_stack = HANGS[name]
    assert outcome.exit_code == ExitCode.FINISHED
    (hung,) = outcome.of(WorkerHung) or [None]
    assert hung is not None, "\n".join(map(str, outcome.events))  # what became of the worker instead
    assert hung in read_events(workshop.run.supervisor_log)
    assert (hung.attempt, hung.phase) == (1, phase)
    # On a busy machine 20 of its own micro-batches may take longer than the time-out that was asked for.
    assert hung.limit_seconds >= (stall if phase not in ("loading", "caching") else 6 * stall)
    # Both are told in whole milliseconds.
    assert hung.limit_seconds <= hung.silent_seconds <= hung.limit_seconds + LATE_SECONDS
    assert hung.is_stopped == (in_stack == "" and Path("/proc/self/stat").exists())
    if not hung.is_stopped:
        assert in_stack in hung.stack and "worker.py" in hung.stack
        assert hung.stack.count("most recent call first") >= 1
    (restarted,) = outcome.of(WorkerRestarted)
    assert (restarted.attempt, restarted.after, restarted.step) == (2, "hung", RESUMED_FROM.get(name))
    assert [one.status == 0 for one in outcome.of(WorkerEnded)] == [False, True]
    assert workshop.optimizer_steps() == {COUNT}
    assert workshop.losses() == undisturbed.losses()
    assert workshop.digest() == undisturbed.digest()


@pytest.mark.ci
@pytest.mark.parametrize("name", [name for name in HANGS if name != "load"])  # that one waits long, as "cache" does
def test_a_hang_is_found_and_mended(make_workshop: MakeWorkshop, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "INTERRUPT_SECONDS", 0.2)
    monkeypatch.setattr(processes, "TERMINATE_SECONDS", 0.2)
    check(make_workshop, name, forked(name), stall=1.0)


@pytest.mark.long
@pytest.mark.parametrize("name", HANGS if IS_WHOLE else ("load", "stop"))
def test_a_hang_of_a_python_of_its_own(make_workshop: MakeWorkshop, name: str) -> None:
    """The patience that a person may ask for, and that of the requests to stop as it is. With FAULT_RUNS only the hang
    that is not above, and a process that cannot hear: how either is started and ended does not depend on the place."""
    check(make_workshop, name, apart(name), stall=5.0)


@pytest.mark.ci
def test_one_that_only_became_slow_is_not_touched(make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times as slow as its own first steps, slower than --stall-timeout and over the time of the whole run; a step
    is one micro-batch."""
    monkeypatch.setattr(supervisor_module, "POLL_SECONDS", 0.02)  # micro-batches are measured by looks
    undisturbed, workshop = make_workshop("undisturbed"), make_workshop("slow")
    count = FIRST_STEPS + 4
    undisturbed.new(count, SAVED)
    stall = STEP_SECONDS * SLOW / 2
    outcome = watched(workshop, forked("slow"), SAVED, count=count, stall_timeout=stall, max_seconds_per_step=0.01)
    assert outcome.exit_code == ExitCode.FINISHED
    assert outcome.of(WorkerHung) == outcome.of(WorkerRestarted) == []
    assert outcome.of(LimitRaised)
    took = [event.seconds for event in outcome.of(StepCompleted)]
    assert min(took[FIRST_STEPS:]) > stall and min(took[FIRST_STEPS:]) > 10 * median(took[:FIRST_STEPS])
    assert workshop.losses() == undisturbed.losses()
    assert workshop.digest() == undisturbed.digest()
