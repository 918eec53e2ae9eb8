"""The worker's boundary: whatever happens inside becomes one last event and an exit code."""

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from lorasmith.errors import ConfigError, ExitCode, NonFiniteError, ResourceError
from lorasmith.runs.events import CheckpointSaved, RunStarted, RunStopped, StepCompleted
from lorasmith.runs.ledger import Ledger, read_events
from lorasmith.runs.locks import FolderLock, facts_of_holder, is_held
from lorasmith.runs.process_files import request_stop
from lorasmith.runtime import worker
from lorasmith.runtime.processes import launch, launch_worker
from lorasmith.session import begin as begin_module
from lorasmith.session import build
from lorasmith.session.recorder import Recorder
from tests.end_to_end.workshop import Workshop, stage, tree


def attempt(workshop: Workshop, *more: str) -> int:
    """One attempt of a staged start, without a supervisor."""
    return worker.main([str(workshop.run.root), "--attempt", "1", "--stop-at", "4", *more])


@pytest.fixture
def staged(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    workshop.run.root.mkdir()
    stage(workshop.start_new(4))
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    return workshop


def last(workshop: Workshop) -> RunStopped:
    run = workshop.run
    (found,) = [
        event
        for event in read_events(run.early_ledger if run.staging.exists() else run.ledger)
        if isinstance(event, RunStopped)
    ]
    return found


def test_reaches_its_end(staged: Workshop) -> None:
    assert attempt(staged) == ExitCode.FINISHED
    assert (last(staged).step, last(staged).reason, last(staged).code) == (4, "reached", "")
    assert not staged.run.staging.exists()


FAILURES: list[tuple[BaseException, str, ExitCode]] = [
    (ConfigError("device_missing", device="cuda"), "device_missing", ExitCode.BAD_INPUT),
    (NonFiniteError("encoded_not_finite", what="x"), "encoded_not_finite", ExitCode.NON_FINITE),
    (ResourceError("disk_full", path="/x"), "disk_full", ExitCode.BAD_INPUT),
    (OSError(errno.ENOSPC, "No space left on device", "/x"), "disk_full", ExitCode.BAD_INPUT),
    (OSError(errno.EIO, "Input/output error", "/x"), "crashed", ExitCode.CRASHED),
    (MemoryError(), "out_of_memory_loading", ExitCode.NO_RESOURCE),
    (RuntimeError("CUDA out of memory. Tried to"), "out_of_memory_loading", ExitCode.NO_RESOURCE),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory_loading", ExitCode.NO_RESOURCE),
    (ModuleNotFoundError("No module", name="transformers"), "dependency_missing", ExitCode.BAD_INPUT),
    (ModuleNotFoundError("No module", name="lorasmith.gone"), "crashed", ExitCode.CRASHED),
    (ZeroDivisionError("division by zero"), "crashed", ExitCode.CRASHED),
    (SystemExit(0), "crashed", ExitCode.CRASHED),  # a library that leaves as if all were well
]


@pytest.mark.parametrize(("error", "code", "exit_code"), FAILURES, ids=[str(one[0]) for one in FAILURES])
def test_failures_while_loading(
    staged: Workshop, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: str, exit_code: ExitCode
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(build, "load", fail)
    assert attempt(staged) == exit_code
    found = last(staged)
    assert (found.code, found.exit_code, found.reason, found.step) == (code, exit_code, "failed", None)
    assert type(error).__name__ in found.traceback


def test_a_disk_that_fills_up_later_is_no_bad_input(staged: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    done = Recorder.write_step

    def full(self: Recorder, result: Any) -> None:
        if result.step == 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(staged.run.ledger))
        done(self, result)

    monkeypatch.setattr(Recorder, "write_step", full)
    assert attempt(staged) == ExitCode.NO_RESOURCE
    assert last(staged).code == "disk_full"


def test_the_exit_code_tells_where_not_even_the_last_line_can_be_written(
    staged: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> Any:
        raise ResourceError("disk_full", path="/x")

    monkeypatch.setattr(begin_module, "begin", full)
    monkeypatch.setattr(Ledger, "sync", full)
    assert attempt(staged) == ExitCode.NO_RESOURCE
    assert "disk_full" in capsys.readouterr().err


def test_stopped_while_loading(staged: Workshop) -> None:
    request_stop(staged.run, 1)
    assert attempt(staged) == ExitCode.STOPPED
    assert (last(staged).code, last(staged).reason) == ("stopped_before_start", "asked")
    assert not staged.run.ledger.exists()


def test_a_request_for_another_attempt_is_not_heard(staged: Workshop) -> None:
    request_stop(staged.run, 7)
    assert attempt(staged) == ExitCode.FINISHED


def test_stops_with_its_state_saved_when_its_supervisor_dies(staged: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = [4321]
    monkeypatch.setattr(os, "getppid", lambda: parent[0])
    done = Recorder.write_step

    def write_step(self: Recorder, result: Any) -> None:
        done(self, result)
        if result.step == 2:
            parent[0] = 1

    monkeypatch.setattr(Recorder, "write_step", write_step)
    assert attempt(staged, "--supervisor", "4321") == ExitCode.STOPPED
    assert (last(staged).step, last(staged).reason) == (2, "asked")
    assert staged.train_state()["step"] == 2
    assert staged.run.export("last").exists()
    events = read_events(staged.run.ledger)
    assert [event.step for event in events if isinstance(event, StepCompleted)] == [1, 2]
    assert [event.step for event in events if isinstance(event, CheckpointSaved)] == [0, 2]


def test_while_another_worker_lives_it_does_nothing(staged: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "PREDECESSOR_SECONDS", 0.05)
    with FolderLock(staged.run.worker_lock):
        before = tree(staged.folder)
        assert attempt(staged) == ExitCode.LOCKED
        assert tree(staged.folder) == before


def test_it_says_who_it_is_and_lets_go(staged: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    begin = begin_module.begin

    def looked(*given: Any) -> Any:
        seen.append((is_held(staged.run.worker_lock), facts_of_holder(staged.run.worker_lock)))
        return begin(*given)

    monkeypatch.setattr(begin_module, "begin", looked)
    assert attempt(staged) == ExitCode.FINISHED
    assert seen == [(True, {"pid": os.getpid(), "attempt": 1})]
    assert not staged.run.worker_lock.exists()


def test_one_that_is_an_orphan_from_the_start_touches_nothing(staged: Workshop) -> None:
    """Its supervisor died between starting it and its lock: the next start may be at work already."""
    before = tree(staged.folder)
    assert attempt(staged, "--supervisor", str(os.getppid() + 1)) == ExitCode.STOPPED
    assert tree(staged.folder) == before


def test_what_a_library_prints_cannot_end_it(tmp_path: Path) -> None:
    """Into a full disk, in this case."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    program = (
        "import os, sys\nfrom lorasmith.runtime import worker\n"
        "worker._settle([sys.argv[1], '--attempt', '1', '--stop-at', '1'])\n"
        "for _ in range(100): print('x' * 1000); sys.stderr.write('y\\n')\n"
        "sys.stdout.flush()\nos._exit(9)"
    )
    with open("/dev/full", "wb") as full:
        process = launch([sys.executable, "-c", program, str(tmp_path)], full)
        assert process.wait(timeout=200) == 9


def test_state_and_target_are_on_disk_before_the_first_step(staged: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at once, a run can go on."""

    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("lorasmith.session.loop.train", killed)
    with pytest.raises(KeyboardInterrupt):
        attempt(staged)
    events = read_events(staged.run.ledger)
    assert [event.stop_at for event in events if isinstance(event, RunStarted)] == [4]
    assert staged.train_state()["step"] == 0
    monkeypatch.undo()
    assert staged.go_on(None).exit_code == ExitCode.FINISHED
    assert staged.train_state()["step"] == 4


@pytest.mark.ci
def test_as_a_program_it_ends_with_its_exit_code(tmp_path: Path) -> None:
    """Through the real thing, on a run folder that has nothing staged."""
    process = launch_worker([str(tmp_path / "nothing"), "--attempt", "1", "--stop-at", "1"])
    assert process.wait(timeout=200) == ExitCode.CRASHED


def test_a_disk_too_full_for_the_lock_is_named_by_the_exit_code(
    staged: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FolderLock, "_write_facts", full)
    assert attempt(staged) == ExitCode.BAD_INPUT
    assert not staged.run.ledger.exists()
    monkeypatch.setattr(FolderLock, "_write_facts", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        attempt(staged)
