"""The real worker outlives its supervisor, which is killed: it saves after the step it is at, and leaves."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorasmith.errors import ExitCode
from lorasmith.evaluation.evaluator import Evaluator
from lorasmith.runs.events import Evaluated, RunStopped, WorkerStarted
from lorasmith.runs.ledger import read_events, steps
from lorasmith.runs.locks import is_held
from tests.end_to_end.test_command_line import typed
from tests.end_to_end.watched import alive
from tests.end_to_end.workshop import Values, Workshop
from tests.faults.forked_program import ForkedProgram
from tests.faults.looked_at import EVALUATED, check_best, know_losses, told

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")
PATIENCE_SECONDS = 120.0
OPTIONS = ("--save-every", "0", "--evaluate-every", "0")  # the only state is the one that it leaves behind


def waited_for(happened: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < give_up_at
        time.sleep(0.005)


def started(workshop: Workshop, *arguments: str) -> ForkedProgram:
    with Path(os.devnull).open("wb") as output:
        return ForkedProgram(workshop, typed(workshop, *arguments), output)


def workers(workshop: Workshop) -> list[WorkerStarted]:
    return [event for event in read_events(workshop.run.supervisor_log) if isinstance(event, WorkerStarted)]


@pytest.mark.ci
def test_an_orphan_leaves_its_last_look_to_the_next_start(
    make_workshop: Callable[[str], Workshop], monkeypatch: pytest.MonkeyPatch
) -> None:
    know_losses(monkeypatch, {2: 0.4, 3: 0.5})
    workshop, undisturbed = make_workshop("orphaned"), make_workshop("undisturbed")
    values: Values = {**EVALUATED, ("cadence", "save_every"): 2}
    undisturbed.new(3, values)
    real = Evaluator.evaluate

    def evaluate(self: Evaluator, state: Any, *given: Any, **more: Any) -> Any:
        if state.step == 3:
            supervisor = os.getppid()
            os.kill(supervisor, signal.SIGKILL)
            waited_for(lambda: os.getppid() != supervisor)
        return real(self, state, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "evaluate", evaluate)
        options = ("--save-every", "2", "--evaluate-every", "2", "--evaluate-examples", "1", "--hold-out", "1")
        program = started(workshop, "--new", "--steps", "3", *options)
        assert program.wait(PATIENCE_SECONDS) == -signal.SIGKILL
        waited_for(lambda: not is_held(workshop.run.worker_lock))
    last = workshop.events()[-1]
    assert isinstance(last, RunStopped) and (last.reason, last.exit_code) == ("asked", ExitCode.STOPPED)
    assert [event.step for event in workshop.events() if isinstance(event, Evaluated)] == [2, 2]
    assert started(workshop, "--continue").wait(PATIENCE_SECONDS) == ExitCode.FINISHED
    assert told(workshop) == told(undisturbed)
    check_best(workshop)


@pytest.mark.ci
def test_it_saves_and_leaves_and_nothing_is_done_twice(make_workshop: Callable[[str], Workshop]) -> None:
    workshop, undisturbed = make_workshop("orphaned"), make_workshop("undisturbed")
    program = started(workshop, "--new", "--steps", "100000", *OPTIONS)
    try:
        # The supervisor writes its own log only after it has read the worker's first events.
        waited_for(lambda: len(steps(workshop.events())) >= 3 and bool(workers(workshop)))
        (worker,) = workers(workshop)
        os.kill(program.pid, signal.SIGKILL)
        assert program.wait(PATIENCE_SECONDS) == -signal.SIGKILL
        done = steps(workshop.events())[-1].step
        waited_for(lambda: not alive(worker.worker_pid))
    finally:
        program.kill()
    assert not is_held(workshop.run.worker_lock)
    last = workshop.events()[-1]
    assert isinstance(last, RunStopped) and last.reason == "asked"
    assert max(workshop.states()) == last.step == steps(workshop.events())[-1].step
    # The step that it was at, and at most one that was completed while the kill was on its way.
    assert done <= last.step <= done + 2

    again = started(workshop, "--continue", "--steps", "2", *OPTIONS)
    assert again.wait(PATIENCE_SECONDS) == ExitCode.FINISHED
    undisturbed.new(last.step + 2)
    assert workshop.losses() == undisturbed.losses()
    assert workshop.digest() == undisturbed.digest()
