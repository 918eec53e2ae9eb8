"""The real worker under the real supervisor: what happens to it changes nothing of what it makes."""

import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any, Literal

import pytest

from lorasmith.config import Request
from lorasmith.errors import ExitCode
from lorasmith.runs.events import Event, StepCompleted, WorkerHung, WorkerRestarted
from lorasmith.runs.states import find_states
from lorasmith.runtime.preflight import Start, continued_run
from lorasmith.runtime.processes import WorkerProcess, launch
from lorasmith.runtime.supervisor import Supervisor
from lorasmith.session import begin, outputs
from tests.end_to_end.workshop import Workshop
from tests.families.unet_miniature import make_model
from tests.runtime import hanging

COUNT = 5
SAVED: dict[tuple[str, str], Any] = {("cadence", "save_every"): 2}


def unlucky(workshop: Workshop, how: str, **watch: float) -> tuple[ExitCode, list[Event]]:
    """A new run whose first worker meets with an accident."""

    def launch_it(arguments: list[str], output: IO[bytes]) -> WorkerProcess:
        return launch([sys.executable, "-m", "tests.runtime.unlucky_worker", how, *arguments], output)

    values = {**SAVED, **{("watch", name): value for name, value in watch.items()}}
    with workshop.monkeypatch.context() as patch:
        hanging.count_hangs_alone(patch, workshop.folder / "hangs")
        supervisor = Supervisor(workshop.start_new(COUNT, values), launch=hanging.launching(launch_it))
        events = [event for event in supervisor.events() if event is not None]
    return supervisor.exit_code, events


@pytest.mark.slow  # tests/faults has the same with a worker that is forked
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("how", ["sleep", "kill"])
def test_the_same_bytes(make_workshop: Callable[[str], Workshop], how: str) -> None:
    undisturbed, workshop = make_workshop("undisturbed"), make_workshop("unlucky")
    undisturbed.new(COUNT, SAVED)
    exit_code, events = unlucky(workshop, how, stall_timeout=5.0 if how == "sleep" else 300.0)
    assert exit_code == ExitCode.FINISHED
    assert [event.step for event in events if isinstance(event, StepCompleted)] == [1, 2, 3, 4, 5]
    (restarted,) = [event for event in events if isinstance(event, WorkerRestarted)]
    assert restarted.step == 2
    hung = [event for event in events if isinstance(event, WorkerHung)]
    assert len(hung) == (how == "sleep")
    for event in hung:
        assert "sleep_in_forward" in event.stack and "train_step" in event.stack
    assert workshop.digest() == undisturbed.digest()
    assert workshop.losses() == undisturbed.losses()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_the_same_bytes_on_families_that_came_later(
    make_workshop: Callable[[str], Workshop], tmp_path: Path, family: Literal["sd2", "sdxl"]
) -> None:
    """Killed, and then continued from an older state since the newest is damaged."""
    model = make_model(tmp_path / "model", family=family, size="nano")
    undisturbed, workshop = make_workshop("undisturbed"), make_workshop("unlucky")
    undisturbed.base_model = workshop.base_model = model
    undisturbed.new(COUNT + 1, SAVED)
    exit_code, events = unlucky(workshop, "kill", stall_timeout=300.0)
    assert exit_code == ExitCode.FINISHED
    assert [event.step for event in events if isinstance(event, WorkerRestarted)] == [2]
    newest = workshop.state_folder() / "adapter.safetensors"
    damaged = bytearray(newest.read_bytes())
    damaged[-1] ^= 1
    newest.write_bytes(damaged)
    assert workshop.go_on(1).exit_code == ExitCode.FINISHED
    assert workshop.digest() == undisturbed.digest()
    assert workshop.losses() == undisturbed.losses()


def planned(workshop: Workshop) -> Start:
    return continued_run(workshop.run, {}, Request(steps=2), from_state="", here=workshop.folder)


class WildClock:
    """A wall clock that somebody sets back and forward by days and years at every look."""

    def __init__(self) -> None:
        self._looks = 0

    def now(self) -> datetime:
        self._looks += 1
        days = (0, -1, 1, -3650, 3650, -15000)[self._looks % 6]
        return datetime(2026, 3, 29, 1, 59) + timedelta(days=days, seconds=self._looks)

    def time(self) -> float:
        return self.now().timestamp()


@pytest.mark.ci
def test_a_wall_clock_that_is_set_changes_nothing(
    make_workshop: Callable[[str], Workshop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """During a run and between runs: the same choice of state, the same bytes, nobody out of time."""
    undisturbed, workshop = make_workshop("undisturbed"), make_workshop("unlucky")
    for one in (undisturbed, workshop):
        if one is workshop:
            clock = WildClock()
            monkeypatch.setattr(time, "time", clock.time)
            for module in (outputs, begin):
                monkeypatch.setattr(module, "datetime", clock)
        one.new(3, {("cadence", "save_every"): 1})
        for saved in (3, 5, 7):
            assert planned(one).first_step == saved
            assert one.go_on(2).exit_code == ExitCode.FINISHED
    monkeypatch.undo()
    names = [state.path.name for state in find_states(workshop.run.root)[0]]
    assert names != sorted(names, reverse=True), "the dates in the names say nothing about the steps"
    assert workshop.digest() == undisturbed.digest()
    assert workshop.losses() == undisturbed.losses()
