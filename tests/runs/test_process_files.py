import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lorasmith.errors import ResourceError
from lorasmith.runs import process_files
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.process_files import (
    HEARTBEAT_BYTES,
    Heartbeat,
    HeartbeatWriter,
    StopFlag,
    monotonic,
    read_heartbeat,
    request_stop,
    stop_requested,
    stop_requested_by_user,
)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "lora_output")
    folder.root.mkdir()
    return folder


# -- heartbeat -------------------------------------------------------------------------------------


def test_a_heartbeat_is_read_as_it_was_written(run: RunFolder) -> None:
    assert read_heartbeat(run.heartbeat) is None
    heart = HeartbeatWriter(run.heartbeat)
    assert read_heartbeat(run.heartbeat) is None
    for beat, (step, phase) in enumerate([(0, "loading"), (123_456_789_012, "exporting"), (7, "step")], 1):
        heart.beat(step, phase, micro_batches=1000 * beat)
        done = sum(1000 * one for one in range(1, beat + 1))
        assert read_heartbeat(run.heartbeat) == Heartbeat(step=step, phase=phase, beat=beat, micro_batches=done)
        assert run.heartbeat.stat().st_size == HEARTBEAT_BYTES
    heart.close()
    heart.close()
    assert read_heartbeat(run.heartbeat) == Heartbeat(step=7, phase="step", beat=3, micro_batches=6000)


def test_a_beat_tells_how_many_lines_wait_for_room(run: RunFolder) -> None:
    heart = HeartbeatWriter(run.heartbeat)
    for waiting in (1, 0, 50_000):
        heart.beat(123_456_789_012, "evaluating", micro_batches=9_999_999, waiting=waiting)
        beat = read_heartbeat(run.heartbeat)
        assert beat is not None and beat.waiting == waiting
        assert run.heartbeat.stat().st_size == HEARTBEAT_BYTES
    heart.close()


@pytest.mark.parametrize("content", [b"", b"\0" * 128, b'{"step": 1, "ph', b"[]", b"{}", b'{"step": 1}'])
def test_a_beat_that_is_just_being_written_is_none(run: RunFolder, content: bytes) -> None:
    run.heartbeat.write_bytes(content)
    assert read_heartbeat(run.heartbeat) is None


def test_a_beat_on_a_full_disk_is_named(run: RunFolder) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    run.heartbeat.symlink_to("/dev/full")
    heart = HeartbeatWriter(run.heartbeat)
    with pytest.raises(ResourceError) as caught:
        heart.beat(1, "step")
    heart.close()
    assert (caught.value.code, caught.value.fields) == ("disk_full", {"path": str(run.heartbeat)})


def test_beats_need_no_new_room(run: RunFolder) -> None:
    heart = HeartbeatWriter(run.heartbeat)
    heart.beat(1, "step")
    before = (run.heartbeat.stat().st_ino, run.heartbeat.stat().st_blocks)
    for step in range(500):
        heart.beat(step, "saving")
    heart.close()
    assert before == (run.heartbeat.stat().st_ino, run.heartbeat.stat().st_blocks)


# -- stop requests ---------------------------------------------------------------------------------


def test_a_stop_is_for_one_attempt(run: RunFolder) -> None:
    assert not stop_requested(run, 3)
    request_stop(run, 3)
    assert stop_requested(run, 3)
    assert not stop_requested(run, 2) and not stop_requested(run, 4)  # a stale one is ignored
    request_stop(run, 4)
    assert stop_requested(run, 4) and not stop_requested(run, 3)


def test_a_request_of_the_supervisor_is_none_of_a_user(run: RunFolder) -> None:
    request_stop(run, 3, by_supervisor=True)
    assert stop_requested(run, 3) and not stop_requested_by_user(run, 3)
    request_stop(run, 3)
    assert stop_requested_by_user(run, 3) and not stop_requested_by_user(run, 2)


def test_a_stop_is_heard_while_the_run_is_still_staged(run: RunFolder) -> None:
    run.staging.mkdir()
    request_stop(run, 1)
    assert list(run.root.iterdir()) == []  # the old run is not touched
    assert stop_requested(run, 1)
    run.stop_request.write_text('{"attempt": 9}')  # left over
    assert stop_requested(run, 1)


@pytest.mark.parametrize("content", [b"", b"\0\0", b"[]", b"3", b"null", b"{}", b'{"attempt": "1"}', b"\xff"])
def test_what_is_no_request_stops_nothing(run: RunFolder, content: bytes) -> None:
    run.stop_request.write_bytes(content)
    assert not stop_requested(run, 1)


def test_a_request_that_is_just_being_put_there_is_for_the_next_look(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_stop(run, 1)

    def refused(self: Path) -> bytes:
        raise PermissionError(errno.EACCES, "in use")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refused)
        assert not stop_requested(run, 1)
    assert stop_requested(run, 1)


@pytest.mark.parametrize("stays", [True, False])
def test_a_request_that_falls_between_staging_and_run_harms_nothing(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, stays: bool
) -> None:
    """Staging is cleared, or gone, when the request gets its name there."""
    run.staging.mkdir()
    real = os.replace

    def late(source: Path, target: Path) -> None:
        source.unlink()
        if not stays:
            run.staging.rmdir()
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", late)
        request_stop(run, 1)
    assert not stop_requested(run, 1)
    if run.staging.exists():
        run.staging.rmdir()
    request_stop(run, 1)  # as the supervisor does each second
    assert run.stop_request.exists() and stop_requested(run, 1)


# -- the flag --------------------------------------------------------------------------------------


def test_a_flag_is_raised_by_a_signal_or_a_request(run: RunFolder) -> None:
    flag = StopFlag(run, 2, supervisor_pid=None)
    assert not flag.requested()
    flag.set()
    assert flag.requested()
    other = StopFlag(run, 2, supervisor_pid=os.getppid())
    assert not other.requested()
    request_stop(run, 1)
    assert not other.requested()
    request_stop(run, 2)
    assert other.requested()
    assert not other.is_orphaned()
    assert StopFlag(run, 9, supervisor_pid=os.getppid() + 1).is_orphaned()


@pytest.mark.parametrize("on_windows", [False, True])
def test_a_flag_is_raised_when_the_supervisor_is_gone(run: RunFolder, on_windows: bool) -> None:
    """A real orphan: its parent ends, and it says whether it noticed."""
    told = run.root / "told"
    worker = f"""
import os, time
from pathlib import Path
from lorasmith.runs import process_files
from lorasmith.runs.process_files import StopFlag
from lorasmith.runs.layout import RunFolder
process_files.on_windows = lambda: {on_windows}
flag = StopFlag(RunFolder(Path({str(run.root)!r})), 1, supervisor_pid=int(__import__("sys").argv[1]))
first = flag.requested()
print("up", flush=True)
for _ in range(12000):
    if flag.requested():
        break
    time.sleep(0.01)
Path({str(told) + ".part"!r}).write_text(f"{{first}} {{flag.requested()}}")
os.rename({str(told) + ".part"!r}, {str(told)!r})
"""
    parent = (
        "import os, subprocess, sys\n"
        f"one = subprocess.Popen([sys.executable, '-c', {worker!r}, str(os.getpid())], stdout=subprocess.PIPE)\n"
        "one.stdout.readline(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", parent], cwd=Path(__file__).parents[2], check=True)
    give_up_at = time.monotonic() + 150
    while not told.exists() and time.monotonic() < give_up_at:
        time.sleep(0.02)
    assert told.read_text() == "False True"


def test_stop_signals_are_those_a_platform_may_lack() -> None:
    assert set(process_files.STOP_SIGNALS) == {"SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"}


def test_the_clock_is_one_that_nobody_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    first = monotonic()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    second: Any = monotonic()
    assert second >= first > 0
