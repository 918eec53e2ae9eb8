"""What a start finds of one that was killed."""

import errno
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from lorasmith.config import RunConfig, dump_run_toml
from lorasmith.errors import LockedError
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.locks import FolderLock
from lorasmith.runtime import cleanup
from lorasmith.runtime.cleanup import clear_staging, end_orphan, remove_stale_worker_lock, remove_unfinished
from lorasmith.runtime.processes import Output, WorkerProcess, launch
from tests.end_to_end.workshop import tree

WORKER = """
import os, signal, sys, time
from pathlib import Path
from lorasmith.runs.process_files import StopFlag
from lorasmith.runs.locks import FolderLock
from lorasmith.runs.layout import RunFolder
run, mode = RunFolder(Path(sys.argv[1])), sys.argv[2]
stop = StopFlag(run, 7, supervisor_pid=None)
heard = signal.SIG_IGN if mode != "signalled" else lambda *_: stop.set()
for one in (signal.SIGINT, signal.SIGTERM):
    signal.signal(one, heard)
with FolderLock(run.worker_lock, facts={"pid": os.getpid() if mode != "lies" else os.getppid(), "attempt": 7}):
    print("up", flush=True)
    while mode == "deaf" or not stop.requested():
        time.sleep(0.01)
"""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "lora_output")
    folder.root.mkdir()
    return folder


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all that end, however busy the machine is. `hasty`: with those that do not."""
    for name in ("INTERRUPT_SECONDS", "TERMINATE_SECONDS", "KILL_SECONDS"):
        monkeypatch.setattr(cleanup, name, 100.0)


def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleanup, "INTERRUPT_SECONDS", 0.2)
    monkeypatch.setattr(cleanup, "TERMINATE_SECONDS", 0.2)


@contextmanager
def orphan(run: RunFolder, mode: str) -> Iterator[WorkerProcess]:
    with closing(Output()) as output:
        process = launch([sys.executable, "-c", WORKER, str(run.root), mode], output.file)
        try:
            while "up" not in output.text():
                assert process.poll() is None, output.text()
                time.sleep(0.005)
            yield process
        finally:
            process.kill()
            process.wait()


def test_there_is_none(run: RunFolder) -> None:
    assert end_orphan(run) is None
    run.worker_lock.write_text(' {"pid": 1, "attempt": 1}')  # one that was killed with its supervisor
    assert end_orphan(run) is None
    assert list(run.root.iterdir()) == [run.worker_lock]


@pytest.mark.parametrize(("mode", "status"), [("requested", 0), ("signalled", 0), ("deaf", -9)])
def test_it_is_asked_terminated_killed(run: RunFolder, mode: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if mode == "signalled":
        monkeypatch.setattr(cleanup, "request_stop", lambda run, attempt, **_: None)
    if mode == "deaf":
        hasty(monkeypatch)
    with orphan(run, mode) as process:
        assert end_orphan(run) == process.pid
        assert process.wait(timeout=100) == status
        assert not run.stop_request.exists()


def test_one_that_was_stopped_is_ended_too(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    hasty(monkeypatch)
    with orphan(run, "requested") as process:
        process.send_signal(signal.SIGSTOP)
        assert end_orphan(run) == process.pid
        assert process.wait(timeout=100) == -signal.SIGKILL


def test_a_process_that_does_not_hold_the_lock_is_not_touched(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process id of another container means somebody else here: this very process, in this test."""
    hasty(monkeypatch)
    with orphan(run, "lies") as process:
        with pytest.raises(LockedError) as caught:
            end_orphan(run)
        assert caught.value.fields == {"folder": str(run.root)}
        assert process.poll() is None
        os.kill(process.pid, 0)


def test_one_that_leaves_by_itself_while_it_is_looked_at(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = FolderLock(run.worker_lock)  # it has not written down yet who it is
    lock.__enter__()
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            lock.__exit__(None, None, None)

    monkeypatch.setattr(time, "sleep", sleep)
    assert end_orphan(run) is None
    assert len(looks) == 3


OURS = (
    ".last.safetensors.123.tmp",
    ".state_20260102_030405.99.tmp",
    ".state_1.removed.tmp",
    ".state_2.moved.tmp",
    "samples/.x.png.5.tmp",
    "samples/step-00000010/.x.png.5.tmp",
    "samples/control/.x.png.5.tmp",
    "logs/.events.out.5.tmp",
)
OTHERS = ("notes.tmp", ".hidden", ".my.tmp", ".a.12x.tmp", "mine/.a.12.tmp", "state_1/.a.12.tmp", "last.123.tmp")


def test_only_what_is_ours_and_half_is_removed(run: RunFolder) -> None:
    for name in OURS + OTHERS:
        path = run.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    folder = run.root / ".state_3.7.tmp"
    folder.mkdir()
    (folder / "adapter.safetensors").write_text("half")
    for outside in (
        run.backup / ".last.copied.tmp",
        run.backup / "run_1" / ".a.copied.tmp",
        run.training_logs / ".l.1.tmp",
    ):
        outside.parent.mkdir(parents=True, exist_ok=True)
        outside.write_text("")
    other_run = run.training_logs / "other" / ".training_loss_log.txt.9.tmp"  # may be writing this very moment
    other_run.parent.mkdir()
    other_run.write_text("")
    link = run.root / ".link.1.tmp"
    link.symlink_to(run.root / "mine")
    remove_unfinished(run)
    left = {name for name, digest in tree(run.root.parent).items() if digest}
    assert left == {f"lora_output/{name}" for name in OTHERS} | {str(other_run.relative_to(run.root.parent))}
    assert not link.is_symlink()


def test_half_written_files_beside_the_run_folder_are_those_of_its_names(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "cat-run")
    run.root.mkdir()
    named = {("export", "name"): "cat", ("export", "naming"): "sd-scripts"}
    run.config.write_bytes(dump_run_toml(RunConfig().with_values(named)))
    ours = [".cat.safetensors.12.tmp", ".cat-000003.safetensors.12.tmp", ".cat-step00000003.safetensors.moved.tmp"]
    others = [".dog.safetensors.12.tmp", ".cat-v2.safetensors.12.tmp", "cat.safetensors"]
    for name in ours + others:
        (tmp_path / name).touch()
    remove_unfinished(run)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == sorted(others)


def test_nothing_to_remove(tmp_path: Path) -> None:
    remove_unfinished(RunFolder(tmp_path / "nothing"))
    assert list(tmp_path.iterdir()) == []


def test_staging_is_taken_away(run: RunFolder) -> None:
    clear_staging(run)
    run.staging.mkdir()
    (run.staging / "run.toml").write_text("")
    clear_staging(run)
    assert not run.staging.exists()
    assert list(run.root.iterdir()) == []


def test_a_stop_request_that_is_put_there_meanwhile_goes_too(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    real, times = shutil.rmtree, []

    def rmtree(folder: Path) -> None:
        times.append(folder)
        if len(times) == 1:
            (folder / "stop.request").write_text("")
            raise OSError(errno.ENOTEMPTY, "not empty")
        real(folder)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    run.staging.mkdir()
    clear_staging(run)
    assert (len(times), run.staging.exists()) == (2, False)


def test_the_lock_of_one_that_was_killed_is_taken_away(run: RunFolder) -> None:
    remove_stale_worker_lock(run)
    run.worker_lock.write_text(' {"pid": 1}')
    remove_stale_worker_lock(run)
    assert not run.worker_lock.exists()
    with FolderLock(run.worker_lock):  # it lives
        remove_stale_worker_lock(run)
        assert run.worker_lock.exists()
