"""Hangs, crashes, slow runs and orphans: a real supervisor process over a small real child; no torch anywhere.

tests/end_to_end/test_stop_signals.py: what a person or the system asks for; test_restarts.py: the others, by a clock
that the test sets.
"""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from lorasmith.errors import ExitCode
from lorasmith.runs.events import GivenUp, RunStopped, StepCompleted, Warned, WorkerHung, WorkerRestarted
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import read_events, steps
from lorasmith.runs.locks import facts_of_holder
from lorasmith.runs.states import find_states
from tests.end_to_end.watched import PATIENCE_SECONDS, Process, alive, leaves

CI = pytest.mark.ci
STALL = 0.4  # seconds; loading has six times as long. What is no hang does not count: tests/runtime/hanging.py


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "lora_output")


@pytest.mark.parametrize(
    ("mode", "phase", "limit", "made"),
    [
        pytest.param("stops", "step", STALL, [1, 2, 3, 4, 5], marks=CI),
        ("sleeps", "step", STALL, [1, 2, 3, 4, 5]),
        pytest.param("sleeps_saving", "saving", STALL, [1, 2, 3, 3, 4, 5], marks=CI),
        pytest.param("sleeps_loading", "loading", 6 * STALL, [1, 2, 3, 4, 5], marks=CI),
    ],
)
def test_a_hang_is_found_and_mended(run: RunFolder, mode: str, phase: str, limit: float, made: list[int]) -> None:
    with Process(mode, run, 5, stall_timeout=STALL, quick=int(mode != "stops")) as watched:
        assert watched.end() == ExitCode.FINISHED
        assert watched.steps() == made
        (hung,) = watched.said(WorkerHung)
        assert (hung.phase, hung.attempt) == (phase, 1)
        assert limit - 0.01 <= hung.limit_seconds <= hung.silent_seconds <= hung.limit_seconds + 5
        if mode == "stops":
            assert hung.is_stopped == Path("/proc/self/stat").exists()
        if hung.is_stopped:
            assert hung.stack == ""
        else:
            assert "sleep_in_forward" in hung.stack
        (restarted,) = watched.said(WorkerRestarted)
        assert (restarted.after, restarted.attempt, restarted.in_vain) == ("hung", 2, 1)
        assert restarted.step == (None if phase == "loading" else 2)


@pytest.mark.ci
def test_one_that_hangs_again_and_again_is_given_up(run: RunFolder) -> None:
    """The first failure made progress, three restarts did not."""
    with Process("sleeps_always", run, 5, stall_timeout=0.2, quick=1) as watched:
        assert watched.end() == ExitCode.STUCK
        assert len(watched.said(WorkerHung)) == 4
        assert [event.in_vain for event in watched.said(WorkerRestarted)] == [1, 2, 3]
        (given_up,) = watched.said(GivenUp)
        assert (given_up.code, given_up.fields["restarts"], given_up.fields["step"]) == ("stuck", 3, 2)


def test_a_crash_is_mended(run: RunFolder) -> None:
    with Process("dies", run, 5) as watched:
        assert watched.end() == ExitCode.FINISHED
        assert watched.steps() == [1, 2, 3, 3, 4, 5]
        (restarted,) = watched.said(WorkerRestarted)
        assert (restarted.after, restarted.step, restarted.reason) == ("crashed", 2, "exit status -9")


@pytest.mark.ci
def test_no_restart_is_heeded(run: RunFolder) -> None:
    with Process("dies", run, 5, no_restart=1) as watched:
        assert watched.end() == ExitCode.CRASHED
        assert watched.said(WorkerRestarted) == [] and watched.said(GivenUp) == []


@pytest.mark.ci
@pytest.mark.parametrize("is_deaf", [False, True])
def test_a_start_ends_an_orphan_and_goes_on(run: RunFolder, is_deaf: bool) -> None:
    """The worker lives, its supervisor does not: what it did up to its end counts, and what it says is not taken for
    the new one's word."""
    with Process("deaf" if is_deaf else "obedient", run, 100_000) as first:
        first.read_until("StepCompleted 3")
        orphan = first.worker_pid()
        if not is_deaf:
            os.kill(orphan, signal.SIGSTOP)  # so that it cannot leave by itself before it is found
        first.process.kill()
        first.process.wait()
        time.sleep(0.2)
        assert alive(orphan)
        if not is_deaf:
            os.kill(orphan, signal.SIGCONT)
        with Process("obedient", run, 2, patient=int(not is_deaf)) as second:
            assert second.end() == ExitCode.FINISHED
            assert leaves(orphan)
            warned = [event.fields for event in second.said(Warned) if event.code == "orphan_ended"]
            assert warned == ([{"pid": orphan}] if is_deaf else warned)
            events = read_events(run.ledger)
            before = [event.step for event in events if isinstance(event, StepCompleted) and event.attempt == 1]
            saved = max(state.step for state in find_states(run.root)[0] if state.path.name.startswith("state_1_"))
            assert second.steps() == [saved + 1, saved + 2]
            # The kill may come between a step and its state.
            assert saved in ((before[-1] - 1, before[-1]) if is_deaf else before[-1:])
            ends = [(event.attempt, event.exit_code) for event in events if isinstance(event, RunStopped)]
            assert ends == ([(2, 0)] if is_deaf else [(1, 5), (2, 0)])


@pytest.mark.ci
@pytest.mark.parametrize("is_frozen", [False, True])
def test_the_last_word_of_an_orphan_that_was_loading_is_not_the_new_worker_s(run: RunFolder, is_frozen: bool) -> None:
    """Both are the first attempt of a new run, and speak in the same staging folder: the orphan is gone, with all it
    said, before the new worker begins. Frozen, it comes to life when it is ended."""
    with Process("waits_loading", run, 2) as first:
        first.read_until("CacheProgress")
        orphan = facts_of_holder(run.worker_lock)["pid"]
        if is_frozen:
            os.kill(orphan, signal.SIGSTOP)
        first.process.kill()
        first.process.wait()
        with Process("obedient", run, 2) as second:
            assert second.end() == ExitCode.FINISHED
            assert leaves(orphan)
            assert second.steps() == [1, 2]
            ends = [event.exit_code for event in read_events(run.ledger) if isinstance(event, RunStopped)]
            assert ends == [0]


@pytest.mark.ci
def test_no_two_workers_at_once(run: RunFolder) -> None:
    """A second start while the first is watched over is refused, and one worker is all there ever is."""
    with Process("obedient", run, 100_000) as first:
        first.read_until("StepCompleted 2")
        second = Process("obedient", run, 2)  # whose end must not be that of the first one's worker
        second.process.communicate(timeout=PATIENCE_SECONDS)
        assert second.process.returncode != 0  # LockedError
        first.process.send_signal(signal.SIGINT)
        assert first.end() == ExitCode.STOPPED
        assert {event.attempt for event in read_events(run.ledger)} == {1}


@pytest.mark.ci
@pytest.mark.skipif(sys.platform == "win32", reason="groups of processes are told otherwise there")
def test_a_supervisor_that_was_itself_stopped_holds_nothing_against_its_worker(run: RunFolder) -> None:
    """Longer than any limit, with the worker stopped too, as when a laptop sleeps."""
    with Process("obedient", run, 100_000, stall_timeout=8.0) as watched:
        watched.read_until("StepCompleted 2")
        worker = watched.worker_pid()
        os.kill(worker, signal.SIGSTOP)
        time.sleep(0.5)  # its last beat is seen, so that none is news afterwards
        watched.process.send_signal(signal.SIGSTOP)
        done = len(steps(read_events(run.ledger)))
        time.sleep(10.0)
        watched.process.send_signal(signal.SIGCONT)
        os.kill(worker, signal.SIGCONT)
        watched.read_until(f"StepCompleted {done + 5}")
        watched.process.send_signal(signal.SIGTERM)
        assert watched.end() == ExitCode.STOPPED
        assert watched.said(WorkerHung) == watched.said(WorkerRestarted) == []
