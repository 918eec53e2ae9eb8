"""Hangs, limits and restarts by a clock that the test sets, over workers that are played by functions.

(tests/end_to_end/test_supervision.py has real processes; tests/runtime/test_policy.py the rules alone.)
"""

from pathlib import Path
from typing import Any

import pytest

from lorasmith.errors import ExitCode
from lorasmith.runs.events import (
    Event,
    GivenUp,
    LimitRaised,
    RunStopped,
    WorkerEnded,
    WorkerHung,
    WorkerRestarted,
    WorkerStarted,
)
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import read_events
from lorasmith.runs.process_files import request_stop
from lorasmith.runtime import processes
from lorasmith.runtime import supervisor as supervisor_module
from tests.runtime.played import Played, Watched


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "lora_output")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(processes, "STACK_SECONDS", 0.02)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The only clock there is."""
    clock = [0.0]
    monkeypatch.setattr(supervisor_module, "monotonic", lambda: clock[0])
    return clock


def of(kind: type[Event], events: list[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def test_a_silent_worker_gives_its_stack_is_ended_and_another_goes_on(run: RunFolder, now: list[float]) -> None:
    def act(worker: Played, look: int) -> int | None:
        worker.heeds = ("kill",)
        now[0] += 1.0
        if look == 1:
            worker.take_place()
            worker.say(worker.step(1))
            worker.save(1)
        elif look == 2 and worker.attempt == 1:
            worker.beat(1, "step", 9)
        elif look == 2:
            worker.say(worker.step(2), worker.event(RunStopped, step=9, reason="reached", exit_code=0))
            return 0
        return None

    watched = Watched(run, act, no_restart=False, stall_timeout=10)
    events = watched.follow()
    first, second = watched.workers
    assert watched.exit_code == ExitCode.FINISHED
    assert first.asked == ["interrupt", "terminate", "kill"]
    (hung,) = of(WorkerHung, events)
    assert (hung.step, hung.phase, hung.limit_seconds, hung.is_stopped) == (1, "step", 10, False)
    assert 10 < hung.silent_seconds <= 11 and "forward.py" in hung.stack
    assert second.resume == run.root / "state_1_1"
    (restarted,) = of(WorkerRestarted, events)
    assert (restarted.attempt, restarted.after, restarted.step, restarted.in_vain) == (2, "hung", 1, 1)
    kinds = [WorkerStarted, WorkerHung, WorkerEnded, WorkerRestarted, WorkerStarted, WorkerEnded]
    assert [type(event) for event in read_events(run.supervisor_log)] == kinds


@pytest.mark.parametrize("way", ["interrupt", "terminate"])
def test_one_that_hears_the_request_that_was_to_end_it_counts_as_hung(
    run: RunFolder, now: list[float], way: str
) -> None:
    def act(worker: Played, look: int) -> int | None:
        worker.heeds = (way,)
        now[0] += 4.0
        if look == 1:
            worker.take_place()
            worker.say(worker.step(1))
            worker.last_words = (worker.event(RunStopped, step=1, reason="asked", exit_code=5),)
        return None

    watched = Watched(run, act, stall_timeout=10)
    (given_up,) = of(GivenUp, watched.follow())
    assert watched.exit_code == ExitCode.STUCK
    assert (given_up.code, given_up.exit_code, given_up.fields["restarts"]) == ("stuck", 7, 0)


def test_a_stack_is_kept_also_where_the_run_could_not_go_on(run: RunFolder, now: list[float]) -> None:
    """It hung while loading; the run that was there has a log to keep that in."""
    run.root.mkdir()
    run.ledger.write_bytes(b"")

    def act(worker: Played, look: int) -> int | None:
        now[0] += 4.0
        return None

    watched = Watched(run, act, is_new=False, stall_timeout=1)
    watched.follow()
    assert watched.exit_code == ExitCode.STUCK
    (hung,) = of(WorkerHung, read_events(run.supervisor_log))
    assert (hung.phase, hung.limit_seconds) == ("loading", 6) and hung.stack


def crashing(worker: Played, look: int) -> int | None:
    """At every attempt, after it took its place."""
    if look == 1:
        worker.take_place()
        return None
    return -11


def test_a_crash_that_comes_back(run: RunFolder) -> None:
    watched = Watched(run, crashing, no_restart=False)
    events = watched.follow()
    assert watched.exit_code == ExitCode.CRASHED
    assert [worker.attempt for worker in watched.workers] == [1, 2, 3, 4]
    assert [worker.resume for worker in watched.workers] == [None, *[run.root / "state_1_0"] * 3]
    (given_up,) = of(GivenUp, events)
    assert (given_up.code, given_up.fields) == ("crashed_again", {"restarts": 3, "reason": "exit status -11"})


def test_the_newest_good_state_is_gone_on_from(run: RunFolder) -> None:
    def act(worker: Played, look: int) -> int | None:
        if look == 1:
            worker.take_place()
            for step in (1, 2) if worker.attempt == 1 else ():
                worker.say(worker.step(step))
                worker.save(step)
            return None
        (run.root / "state_1_2" / "train_state.json").write_text("damaged")
        return -9

    watched = Watched(run, act, no_restart=False)
    watched.follow()
    assert {worker.resume for worker in watched.workers[1:]} == {run.root / "state_1_1"}


def test_with_no_good_state_left_it_does_not_begin_anew_in_silence(run: RunFolder) -> None:
    def act(worker: Played, look: int) -> int | None:
        status = crashing(worker, look)
        if status is not None:
            (run.root / "state_1_0" / "train_state.json").write_text("damaged")
        return status

    watched = Watched(run, act, no_restart=False)
    (given_up,) = of(GivenUp, watched.follow())
    assert watched.exit_code == ExitCode.NO_STATE
    assert given_up.code == "no_usable_state"
    assert given_up.fields["problems"] == [
        {"path": "state_1_0", "reason": "state_damaged", "fields": {"damage": "size:train_state.json"}}
    ]


def test_one_that_died_before_it_saved_anything_begins_anew(run: RunFolder) -> None:
    def act(worker: Played, look: int) -> int | None:
        if look == 1:
            worker.save = lambda step: None
            worker.take_place()
            return None
        return -9 if worker.attempt == 1 else worker.finish()

    watched = Watched(run, act, no_restart=False)
    (restarted,) = of(WorkerRestarted, watched.follow())
    assert (watched.exit_code, restarted.step, watched.workers[1].resume) == (ExitCode.FINISHED, None, None)


def test_one_that_somebody_else_asked_to_stop_is_not_started_again(run: RunFolder) -> None:
    """A web page writes the request file, and then the worker dies."""

    def act(worker: Played, look: int) -> int | None:
        if look == 1:
            worker.take_place()
            request_stop(run, worker.attempt)
            return None
        return -9

    watched = Watched(run, act, no_restart=False)
    watched.follow()
    assert (watched.exit_code, len(watched.workers)) == (ExitCode.STOPPED, 1)
    assert not run.stop_request.exists()


def test_one_that_was_asked_to_stop_and_hangs_is_not_started_again(run: RunFolder, now: list[float]) -> None:
    def act(worker: Played, look: int) -> int | None:
        worker.heeds = ("kill",)
        now[0] += 1.0
        if look == 1:
            worker.take_place()
            request_stop(run, worker.attempt)
        return None

    watched = Watched(run, act, no_restart=False, stall_timeout=10)
    assert len(of(WorkerHung, watched.follow())) == 1
    assert (watched.exit_code, len(watched.workers)) == (ExitCode.STOPPED, 1)


def test_a_stop_request_counts_also_while_a_worker_that_hangs_is_ended(run: RunFolder, now: list[float]) -> None:
    def act(worker: Played, look: int) -> int | None:
        worker.heeds = ("kill",)
        now[0] += 4.0
        if look == 1:
            worker.take_place()
            worker.interrupt = lambda: request_stop(run, worker.attempt)
        return None

    watched = Watched(run, act, no_restart=False, stall_timeout=10)
    assert len(of(WorkerHung, watched.follow())) == 1
    assert (watched.exit_code, len(watched.workers)) == (ExitCode.STOPPED, 1)


def test_a_restart_is_on_the_terms_the_run_began_with(run: RunFolder) -> None:
    """What `auto` became is in the run's own settings, which the worker wrote."""
    staged: list[bytes] = []

    def act(worker: Played, look: int) -> int | None:
        if look == 1:
            staged.append((run.staging / run.config.name).read_bytes())
            worker.take_place()
            run.config.write_bytes(b"resolved")
            return None
        return -9 if worker.attempt == 1 else worker.finish()

    Watched(run, act, no_restart=False).follow()
    assert len(staged) == 2 and staged[0] != staged[1] == b"resolved"


def test_the_time_of_the_whole_run(run: RunFolder, now: list[float]) -> None:
    """Raised while steps are completed; the end when they are not, whatever the heart does."""

    def act(worker: Played, look: int) -> int | None:
        now[0] += 2.0
        if look == 1:
            worker.take_place()
        worker.beat(look, "step", look)
        if look in (3, 6):
            worker.say(worker.step(look // 3, seconds=6.0))
        return None

    watched = Watched(run, act, no_restart=False, stall_timeout=3, max_seconds_per_step=1)
    events = watched.follow()
    assert watched.exit_code == ExitCode.STUCK
    assert len(watched.workers) == 1 and of(WorkerHung, events) == []
    (raised,) = of(LimitRaised, events)
    assert (raised.limit_seconds, raised.seconds_per_step) == (raised.spent_seconds + 2 * 6 * 7, 6.0)
    (given_up,) = of(GivenUp, events)
    assert given_up.code == "run_limit" and given_up.fields["step"] == 2


def test_one_that_cannot_be_ended_ends_the_run(run: RunFolder, now: list[float]) -> None:
    def act(worker: Played, look: int) -> int | None:
        worker.heeds = ()
        now[0] += 4.0
        return None

    watched = Watched(run, act, no_restart=False, stall_timeout=1)
    (given_up,) = of(GivenUp, watched.follow())
    assert (watched.exit_code, given_up.code) == (ExitCode.STUCK, "worker_unkillable")
