"""The supervisor over workers that are played by functions. (tests/runs/test_stop_signals.py has real processes.)"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from lorasmith.config import RunConfig
from lorasmith.errors import ExitCode, LockedError
from lorasmith.events import (
    CacheProgress,
    Event,
    RunStarted,
    RunStopped,
    StepCompleted,
    Warned,
    WorkerEnded,
    WorkerStarted,
)
from lorasmith.ledger import Ledger, read_events
from lorasmith.locking import FolderLock
from lorasmith.promotion import move, promote
from lorasmith.run_folder import RunFolder
from lorasmith.runtime import supervisor as supervisor_module
from lorasmith.runtime.start import Start
from lorasmith.runtime.supervisor import Supervisor
from tests.runs.workshop import tree

ROOT = Path(__file__).parents[2]
Act = Callable[["Played", int], int | None]  # called at each look; the exit status once it has ended


class Played:
    """A worker process that is played by a function."""

    def __init__(self, act: Act, arguments: list[str]) -> None:
        self.pid = 12345
        self.arguments = arguments
        self.run = RunFolder(Path(arguments[0]))
        self.attempt = int(arguments[arguments.index("--attempt") + 1])
        self.asked: list[str] = []
        self.heeds: tuple[str, ...] = ("terminate", "kill")
        self.status: int | None = None
        self._act = act
        self._looks = 0

    def poll(self) -> int | None:
        if self.status is None:
            self._looks += 1
            self.status = self._act(self, self._looks)
        return self.status

    def terminate(self) -> None:
        self._asked_to("terminate", -15)

    def kill(self) -> None:
        self._asked_to("kill", -9)

    def wait(self, timeout: float | None = None) -> int:
        if self.status is None:
            raise subprocess.TimeoutExpired("played", timeout or 0)
        return self.status

    def _asked_to(self, how: str, status: int) -> None:
        self.asked.append(how)
        if how in self.heeds:
            self.status = status

    def say(self, *events: Event) -> None:
        """Into the ledger that stands for it now."""
        with Ledger(self.run.early_ledger if self.run.staging.exists() else self.run.ledger) as ledger:
            for event in events:
                ledger.append(event)

    def take_place(self) -> None:
        """As the real one does: the early events are the first of the run's own ledger."""
        said = read_events(self.run.early_ledger)
        promote(self.run, now=datetime.now())
        self.say(*said, self.event(RunStarted, identity="", resumed_from=None, stop_at=9, settings={}))

    def event(self, kind: type[Event], **fields: Any) -> Event:
        return kind(attempt=self.attempt, time=0.0, **fields)

    def step(self, number: int) -> Event:
        return self.event(
            StepCompleted,
            step=number,
            epoch=1,
            loss=1.0,
            lr={},
            grad_norm=1.0,
            example_ids=[],
            seconds=0.1,
            peak_memory=0,
        )


class Watched:
    """A supervisor with a played worker, followed to the end."""

    def __init__(self, run: RunFolder, act: Act, *, is_new: bool = True) -> None:
        self.workers: list[Played] = []
        start = Start(run, RunConfig(), 9, is_new=is_new, first_step=0)
        self.supervisor = Supervisor(start, launch=self._launch)  # type: ignore[arg-type]
        self._act = act

    def _launch(self, arguments: list[str]) -> Played:
        self.workers.append(Played(self._act, arguments))
        return self.workers[-1]

    def follow(self) -> list[Event]:
        return [event for event in self.supervisor.events() if event is not None]

    @property
    def exit_code(self) -> ExitCode:
        return self.supervisor.exit_code


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "lora_output")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(supervisor_module, "POLL_SECONDS", 0.001)
    handlers = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    assert handlers == {one: signal.getsignal(one) for one in handlers}


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (0, ExitCode.FINISHED),
        (2, ExitCode.BAD_INPUT),
        (4, ExitCode.NO_STATE),
        (5, ExitCode.STOPPED),
        (6, ExitCode.NO_RESOURCE),
        (8, ExitCode.NON_FINITE),
        (70, ExitCode.CRASHED),
        (1, ExitCode.CRASHED),
        (99, ExitCode.CRASHED),
        (-9, ExitCode.CRASHED),
        (-11, ExitCode.CRASHED),
    ],
)
def test_exit_codes(run: RunFolder, status: int, meaning: ExitCode) -> None:
    watched = Watched(run, lambda worker, look: status)
    events = watched.follow()
    assert watched.exit_code == meaning
    assert [type(event) for event in events] == [WorkerStarted, WorkerEnded]
    assert events[-1].status == status  # type: ignore[attr-defined]


def test_what_the_worker_said_is_believed(run: RunFolder) -> None:
    def act(worker: Played, look: int) -> int | None:
        worker.say(worker.event(RunStopped, step=None, reason="failed", code="x", exit_code=8))
        return -9

    watched = Watched(run, act)
    watched.follow()
    assert watched.exit_code == ExitCode.NON_FINITE


def test_early_events_are_neither_lost_nor_doubled(run: RunFolder) -> None:
    """Whether they are seen before or after the run has taken its place, in pieces or at once."""

    def act(worker: Played, look: int) -> int | None:
        progress = [worker.event(CacheProgress, done=number, total=5) for number in range(6)]
        if look in (2, 3):
            worker.say(progress[look - 2])
        elif look == 5:
            worker.say(*progress[2:4])
            worker.say(*progress[4:])  # nobody looks between this and the promotion
            worker.take_place()
        elif look == 6:
            worker.say(worker.step(1), worker.step(2))
        elif look == 8:
            worker.say(worker.step(3), worker.event(RunStopped, step=3, reason="reached", exit_code=0))
            return 0
        return None

    events = Watched(run, act).follow()
    assert [event.done for event in events if isinstance(event, CacheProgress)] == list(range(6))
    assert [event.step for event in events if isinstance(event, StepCompleted)] == [1, 2, 3]
    kinds = [type(event).__name__ for event in events]
    assert kinds[0] == "WorkerStarted"
    assert kinds[-2:] == ["RunStopped", "WorkerEnded"]
    assert kinds.count("RunStarted") == 1


def test_a_worker_that_did_everything_between_two_looks(run: RunFolder) -> None:
    def act(worker: Played, look: int) -> int | None:
        worker.say(worker.event(CacheProgress, done=0, total=1))
        worker.take_place()
        worker.say(worker.step(1), worker.event(RunStopped, step=1, reason="reached", exit_code=0))
        return 0

    watched = Watched(run, act)
    assert len(watched.follow()) == 6
    assert watched.exit_code == ExitCode.FINISHED


def test_earlier_attempts_are_no_news_and_are_counted(run: RunFolder) -> None:
    run.root.mkdir()
    with Ledger(run.ledger) as ledger:
        ledger.append(Warned(attempt=3, time=0.0, code="old"))

    def act(worker: Played, look: int) -> int | None:
        worker.say(worker.event(Warned, code="new"))
        return 0

    watched = Watched(run, act, is_new=False)
    warned = [event for event in watched.follow() if isinstance(event, Warned)]
    assert [(event.attempt, event.code) for event in warned] == [(4, "new")]
    assert watched.workers[0].attempt == 4


def test_a_worker_that_says_done_and_stays(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Terminated after two seconds, killed a second later; the run counts as finished."""
    now = [0.0]
    monkeypatch.setattr(supervisor_module, "monotonic", lambda: now[0])

    def act(worker: Played, look: int) -> int | None:
        worker.heeds = ("kill",)
        if look == 1:
            worker.take_place()
            worker.say(worker.event(RunStopped, step=9, reason="reached", exit_code=0))
        now[0] += 0.5
        return None

    watched = Watched(run, act)
    watched.follow()
    assert watched.workers[0].asked == ["terminate", "kill"]
    assert watched.exit_code == ExitCode.FINISHED
    assert 2.0 < now[0] < 4.0


def test_the_own_log_is_written_only_once_there_is_a_run(run: RunFolder) -> None:
    seen: list[bool] = []

    def act(worker: Played, look: int) -> int | None:
        seen.append(run.supervisor_log.exists())
        if look == 3:
            worker.take_place()
        return 0 if look == 6 else None

    Watched(run, act).follow()
    assert seen == [False, False, False, True, True, True]
    assert [type(event) for event in read_events(run.supervisor_log)] == [WorkerStarted, WorkerEnded]


@pytest.mark.parametrize("is_there", [False, True], ids=["fresh", "under a run"])
def test_nothing_is_left_of_a_start_that_failed(run: RunFolder, is_there: bool) -> None:
    if is_there:
        run.root.mkdir()
        run.ledger.write_bytes(b"")
    before = tree(run.root.parent)

    def act(worker: Played, look: int) -> int | None:
        worker.say(worker.event(RunStopped, step=None, reason="failed", code="x", exit_code=2))
        return 2

    watched = Watched(run, act)
    watched.follow()
    assert watched.exit_code == ExitCode.BAD_INPUT
    assert tree(run.root.parent) == before


def test_leaving_early_ends_the_worker_and_lets_go(run: RunFolder) -> None:
    """Whoever stops following (a crash of the screen) leaves no worker behind."""
    watched = Watched(run, lambda worker, look: None)
    events = watched.supervisor.events()
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert watched.workers[0].asked == ["kill"]
    with FolderLock(run.lock):
        pass
    assert tree(run.root.parent) == {}


def test_half_a_promotion_is_finished(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker is killed while the old run moves to the backup: it does not stay in two halves."""
    names = {"a.txt", "b.txt", "c.txt"}
    run.root.mkdir()
    for name in names:
        (run.root / name).write_text(name)

    def act(worker: Played, look: int) -> int | None:
        moved: list[Path] = []

        def move_one(source: Path, target: Path) -> None:
            if moved:
                raise KeyboardInterrupt
            moved.append(target)
            move(source, target)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("lorasmith.promotion.move", move_one)
            promote(run, now=datetime(2026, 1, 2))
        assert len(names & {path.name for path in run.root.iterdir()}) == 2
        return -9

    watched = Watched(run, act)
    watched.follow()
    assert watched.exit_code == ExitCode.CRASHED
    assert {path.name for path in run.backup.rglob("*.txt")} == names
    assert {path.name for path in run.root.iterdir()} == {"run.toml"}
    assert not run.staging.exists()


def test_another_holds_the_folder(run: RunFolder) -> None:
    with FolderLock(run.lock):
        watched = Watched(run, lambda worker, look: 0)
        with pytest.raises(LockedError):
            watched.follow()
        assert watched.workers == []


def test_newest_state_of_nothing(run: RunFolder) -> None:
    assert Watched(run, lambda worker, look: 0).supervisor.newest_state() is None


def test_what_the_worker_is_told(run: RunFolder) -> None:
    watched = Watched(run, lambda worker, look: 0)
    watched.follow()
    arguments = ["--attempt", "1", "--stop-at", "9", "--supervisor", str(os.getpid())]
    assert watched.workers[0].arguments == [str(run.root), *arguments]


def test_no_torch_above_the_worker() -> None:
    code = "import sys, lorasmith.runtime.supervisor, lorasmith.runtime.starting; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
