"""The supervisor over workers played by functions. (tests/end_to_end/test_stop_signals.py has real processes.)"""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from lorasmith.errors import ConfigError, ExitCode, LockedError
from lorasmith.runs.events import (
    CacheProgress,
    GivenUp,
    RunStopped,
    StepCompleted,
    Warned,
    WorkerEnded,
    WorkerStarted,
)
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import Ledger, read_events
from lorasmith.runs.locks import FolderLock
from lorasmith.runs.process_files import stop_requested
from lorasmith.runs.promotion import move, promote
from lorasmith.runs.states import MANIFEST, OWN_FILES, manifest_bytes
from lorasmith.runtime import supervisor as supervisor_module
from tests.end_to_end.workshop import tree
from tests.runtime.played import Played, Watched

ROOT = Path(__file__).parents[2]


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
        (0, ExitCode.CRASHED),  # without a word nobody knows what was done
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


def test_a_request_to_an_earlier_run_is_none_to_this_one(run: RunFolder) -> None:
    """Supervisor and worker were killed before anybody took it away."""
    run.root.mkdir()
    run.stop_request.write_text('{"attempt": 1}')

    def act(worker: Played, look: int) -> int | None:
        assert not stop_requested(run, worker.attempt)
        worker.say(worker.event(RunStopped, step=None, reason="failed", code="crashed", exit_code=70))
        return 70

    watched = Watched(run, act)
    watched.follow()
    assert (len(watched.workers), watched.exit_code) == (1, ExitCode.CRASHED)


@pytest.mark.parametrize(
    ("code", "said"),
    [(errno.EIO, "output_not_writable"), (errno.EROFS, "output_not_writable"), (errno.ENOSPC, "disk_full")],
)
def test_a_disk_that_takes_nothing_more_ends_the_run_with_a_reason(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, code: int, said: str
) -> None:
    def act(worker: Played, look: int) -> int | None:
        worker.take_place()

        def refused(path: Path, *_: Any, **__: Any) -> None:
            raise OSError(code, os.strerror(code), str(path))

        monkeypatch.setattr(Path, "mkdir", refused)  # as the next attempt finds it
        if code != errno.ENOSPC:
            monkeypatch.setattr(Path, "unlink", refused)
        return -9

    watched = Watched(run, act, no_restart=False)
    (given_up,) = [event for event in watched.follow() if isinstance(event, GivenUp)]
    assert (watched.exit_code, given_up.code, given_up.exit_code) == (ExitCode.NO_RESOURCE, said, 6)
    monkeypatch.undo()
    with FolderLock(run.lock):  # nobody holds it
        pass


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
    assert len(watched.follow()) == 7  # with the state of step 0
    assert watched.exit_code == ExitCode.FINISHED


def test_a_worker_that_is_faster_than_those_who_watch(run: RunFolder) -> None:
    """A screen that takes its time over the first event misses nothing: on a busy machine it took eight seconds."""
    run.root.mkdir()
    with Ledger(run.ledger) as ledger:
        ledger.append(Warned(attempt=3, time=0.0, code="old"))
    state = run.root / "state_1"
    state.mkdir()
    for name in OWN_FILES:
        (state / name).write_text("1")
    (state / MANIFEST).write_bytes(manifest_bytes(state, step=1, identity=""))

    watched = Watched(run, lambda worker, look: 0, is_new=False, resume=state)
    events = watched.supervisor.events()
    assert isinstance(next(events), WorkerStarted)
    (worker,) = watched.workers
    worker.take_place()
    worker.say(worker.step(2), worker.event(RunStopped, step=2, reason="reached", exit_code=0))
    kinds = [type(event).__name__ for event in events if event is not None]
    assert kinds == ["RunStarted", "StepCompleted", "RunStopped", "WorkerEnded"]
    assert [type(event).__name__ for event in read_events(run.supervisor_log)] == ["WorkerStarted", "WorkerEnded"]


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


def test_a_folder_of_somebody_under_the_name_of_staging_is_left_alone(run: RunFolder) -> None:
    run.staging.mkdir()
    (run.staging / "run.toml").write_text("theirs")
    (run.staging / "ledger.jsonl").write_text("of a run that was made here")
    before = tree(run.root.parent)
    watched = Watched(run, lambda worker, look: 70)
    with pytest.raises(ConfigError) as caught:
        watched.follow()
    assert (caught.value.code, watched.workers) == ("staging_holds_other", [])
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
            patch.setattr("lorasmith.runs.promotion.move", move_one)
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


def test_what_another_attempt_says_is_not_heard(run: RunFolder) -> None:
    """An orphan's last word is none of the new worker's."""

    def act(worker: Played, look: int) -> int | None:
        if look == 1:
            worker.take_place()
            worker.say(RunStopped(attempt=77, time=0.0, step=5, reason="asked", exit_code=5))
        return 70 if look == 4 else None

    watched = Watched(run, act)
    assert not any(isinstance(event, RunStopped) for event in watched.follow())
    assert watched.exit_code == ExitCode.CRASHED


def test_the_plan_is_looked_at_again_once_the_folder_is_held(run: RunFolder) -> None:
    watched = Watched(run, lambda worker, look: 0)
    held: list[bool] = []

    def replanned() -> Any:
        with pytest.raises(LockedError), FolderLock(run.lock):
            pass
        held.append(True)
        return replace(watched.start, stop_at=77, replan=None)

    watched.supervisor._start = replace(watched.start, replan=replanned)
    watched.follow()
    assert held == [True]
    assert watched.workers[0].arguments[4] == "77"


def test_no_torch_above_the_worker() -> None:
    code = "import sys, lorasmith.runtime.supervisor, lorasmith.runtime.preflight; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_full_disk_is_told_by_the_heart(run: RunFolder) -> None:
    """At once and once, as the ledger cannot say it; again only after a state was saved meanwhile."""

    def act(worker: Played, look: int) -> int | None:
        if look == 1:
            worker.take_place()
        elif look == 9:
            worker.say(*(worker.step(number) for number in range(1, 9)))
            worker.save(8)
        elif look == 15:
            return int(ExitCode.NO_RESOURCE)
        waiting = {5: 3, 6: 4, 7: 0, 8: 7, 12: 1}.get(look, 0)
        worker.beat(look, "step", look, waiting)
        return None

    watched = Watched(run, act)
    told = [(type(event).__name__, getattr(event, "code", "")) for event in watched.follow()]
    assert told.count(("Warned", "lines_wait")) == 2
    assert told.index(("Warned", "lines_wait")) < told.index(("StepCompleted", ""))
    assert watched.exit_code == ExitCode.NO_RESOURCE
    assert told[-1] == ("GivenUp", "disk_full"), "the worker had no last word"
    kept = read_events(run.supervisor_log)
    assert [event.fields["step"] for event in kept if isinstance(event, Warned)] == [5, 12]
