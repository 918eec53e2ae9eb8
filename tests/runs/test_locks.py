import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from lorasmith.errors import InputError, LockedError
from lorasmith.runs import locks
from lorasmith.runs.durable import map_write_errors
from lorasmith.runs.locks import FolderLock, facts_of_holder, is_held

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from pathlib import Path
from lorasmith.errors import LockedError
from lorasmith.runs.locks import FolderLock
try:
    with FolderLock(Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
except LockedError as error:
    print(error.code, flush=True)
"""


def process(path: Path, program: str = HOLD) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def holder(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that has the lock."""
    with process(path) as other:
        assert other.stdout is not None
        try:
            assert other.stdout.readline() == "held\n"
            yield other
        finally:
            other.kill()


def test_it_is_taken_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "run.lock"
    with FolderLock(path):
        assert path.exists() and path.read_bytes() == b""
        with pytest.raises(LockedError) as caught, FolderLock(path):
            pass
        assert (caught.value.code, caught.value.fields) == ("folder_locked", {"folder": str(path.parent)})
        assert path.exists()
    assert list(tmp_path.iterdir()) == []
    with FolderLock(path):
        assert path.exists()


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "run.lock"):
        pass
    assert tmp_path.is_dir() and list(tmp_path.iterdir()) == []


def test_a_made_folder_that_holds_something_stays(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "a" / "b" / "run.lock"):
        (tmp_path / "a" / "b" / "ledger.jsonl").touch()
    assert [one.name for one in (tmp_path / "a" / "b").iterdir()] == ["ledger.jsonl"]


def test_it_is_let_go_also_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), FolderLock(tmp_path / "a" / "run.lock"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_another_process_is_kept_out_until_this_one_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with holder(path) as other:
        with pytest.raises(LockedError), FolderLock(path):
            pass
        assert path.exists()
        other.communicate("")
        assert not path.exists()
        with FolderLock(path), process(path) as third:
            assert third.communicate("")[0] == "folder_locked\n"


def test_the_kernel_lets_go_for_the_dead(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.lock"
    with holder(path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert path.exists()  # nobody was left to take it away, and it keeps nobody out
    with FolderLock(path):
        pass
    assert list((tmp_path / "new").iterdir()) == []


def test_a_child_does_not_keep_it(tmp_path: Path) -> None:
    """Whatever a supervisor starts, with every handle left open, the lock dies with the supervisor."""
    path = tmp_path / "run.lock"
    program = HOLD.replace(
        'print("held", flush=True)',
        "import os, subprocess, time\n"
        "        child = subprocess.Popen(['sleep', '60'], close_fds=False, stdin=subprocess.DEVNULL,\n"
        "            stdout=subprocess.DEVNULL)\n"
        "        print(child.pid, flush=True)",
    )
    with process(path, program) as other:
        assert other.stdout is not None
        child = int(other.stdout.readline())
        try:
            other.kill()
            other.wait()
            os.kill(child, 0)  # alive
            with FolderLock(path):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_of_twenty_at_once_one_has_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "run.lock"
    # Forked takers: twenty interpreters would take longer than the test may. Whoever has it keeps it until all tried.
    program = f"""
import os, sys
from pathlib import Path
from lorasmith.errors import LockedError
from lorasmith.runs.locks import FolderLock
(go, begin), (tries, tried), (leave, over) = os.pipe(), os.pipe(), os.pipe()
children = []
for _ in range(20):
    pid = os.fork()
    if not pid:
        os.close(begin), os.close(over)
        os.read(go, 1)
        try:
            with FolderLock(Path({str(path)!r})):
                os.write(tried, b"x"), os.read(leave, 1)
            os._exit(0)
        except BaseException as error:
            os.write(tried, b"x")
            os._exit(3 if isinstance(error, LockedError) else 4)
    children.append(pid)
os.close(begin)
for _ in children:
    os.read(tries, 1)
os.close(over)
print(sorted(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == str([0] + [3] * 19), done.stderr
    assert not path.exists()


def test_takers_that_come_and_go_never_hold_it_together(tmp_path: Path) -> None:
    """Each adds 1 to a number without care: where two were inside at once, one would be lost. File and folder vanish
    and come back all the time, so the check of the file's identity is what keeps them apart."""
    path, count = tmp_path / "new" / "run.lock", tmp_path / "count"
    count.write_text("0")
    program = f"""
import os
from pathlib import Path
from lorasmith.errors import LockedError
from lorasmith.runs.locks import FolderLock
children = []
for _ in range(4):
    pid = os.fork()
    if not pid:
        done = 0
        while done < 50:
            try:
                with FolderLock(Path({str(path)!r})):
                    number = int(Path({str(count)!r}).read_text())
                    os.sched_yield()
                    Path({str(count)!r}).write_text(str(number + 1))
                    done += 1
            except LockedError:
                os.sched_yield()
        os._exit(0)
    children.append(pid)
print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[0, 0, 0, 0]", done.stderr
    assert count.read_text() == "200"


def test_a_file_taken_away_between_open_and_lock_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.lock"
    real, tries = locks._try_lock, []

    def slow(handle: int) -> bool:
        tries.append(handle)
        if len(tries) == 1:
            path.unlink()  # its holder has just left
        return real(handle)

    monkeypatch.setattr(locks, "_try_lock", slow)
    with FolderLock(path), pytest.raises(LockedError), FolderLock(path):
        pass
    assert len(tries) == 3  # twice for the first, once for the one refused


def test_a_folder_taken_away_before_the_file_is_opened_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real, tries = tmp_path / "a" / "run.lock", os.open, []

    def slow(name: str, flags: int, mode: int = 0o777) -> int:
        tries.append(name)
        if len(tries) == 1:
            path.parent.rmdir()
        return real(name, flags, mode)

    monkeypatch.setattr(os, "open", slow)
    with FolderLock(path):
        assert path.exists()
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_another_s_by_now_is_not_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with FolderLock(path):
        path.unlink()  # somebody cleaned up by hand
        path.write_text("another's")
    assert path.read_text() == "another's"


def test_a_folder_that_cannot_be_written_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(PermissionError), FolderLock(tmp_path / "a" / "b" / "run.lock"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_no_folder_can_be_created_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in /proc, where the system says that the new folder does not exist."""

    def never(self: Path, *_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(self))

    monkeypatch.setattr(Path, "mkdir", never)
    with pytest.raises(FileNotFoundError, match="new"), FolderLock(tmp_path / "new" / "run.lock"):
        pass


def test_a_file_system_without_locks_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(errno.ENOLCK, "No locks available")))
    path = tmp_path / "a" / "b" / "run.lock"
    with pytest.raises(InputError) as caught, map_write_errors(path.parent), FolderLock(path):
        pass
    assert (caught.value.code, caught.value.exit_code, list(tmp_path.iterdir())) == ("output_not_writable", 2, [])
    there = tmp_path / "run.lock"
    there.write_bytes(b"another's")  # which may be held, whatever the system says to us
    with pytest.raises(OSError, match="No locks"), FolderLock(there):
        pass
    assert there.read_bytes() == b"another's"


def test_whoever_finds_it_held_can_read_by_whom(tmp_path: Path) -> None:
    path = tmp_path / "worker.lock"
    assert facts_of_holder(path) == {} and not is_held(path)
    path.write_text("x" * 500)  # of one that was killed
    with FolderLock(path, facts={"pid": 12, "attempt": 3}):
        assert is_held(path)
        assert facts_of_holder(path) == {"pid": 12, "attempt": 3}
        assert path.read_bytes()[:1] == b"\0"  # the byte that Windows locks holds nothing
        with pytest.raises(LockedError), FolderLock(path, facts={"pid": 13}):
            pass
        assert facts_of_holder(path) == {"pid": 12, "attempt": 3}
    assert facts_of_holder(path) == {}


@pytest.mark.parametrize("content", [b"", b"\0", b"\0[1]", b"\0{", b"\0\xff"])
def test_facts_that_cannot_be_read_are_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "worker.lock").write_bytes(content)
    assert facts_of_holder(tmp_path / "worker.lock") == {}


def test_one_that_waits_gets_it_when_the_other_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "worker.lock"
    with holder(path) as other:
        begun = time.monotonic()
        threading.Timer(0.3, other.kill).start()
        with FolderLock(path, wait_seconds=120):
            assert 0.1 < time.monotonic() - begun < 100


def test_one_that_waits_does_not_wait_for_ever(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "worker.lock"):
        begun = time.monotonic()
        with pytest.raises(LockedError), FolderLock(tmp_path / "worker.lock", wait_seconds=0.1):
            pass
        assert 0.1 <= time.monotonic() - begun < 60


# -- Windows ---------------------------------------------------------------------------------------


class Msvcrt(SimpleNamespace):
    """The part of msvcrt that is used: a lock on a byte, by file."""

    LK_NBLCK = 2

    def __init__(self) -> None:
        self.held: dict[tuple[int, int], int] = {}

    def locking(self, handle: int, mode: int, count: int) -> None:
        assert (mode, count) == (self.LK_NBLCK, 1)
        found = os.fstat(handle)
        if (found.st_dev, found.st_ino) in self.held:
            raise OSError(13, "Permission denied")
        self.held[found.st_dev, found.st_ino] = handle


def test_without_fcntl_msvcrt_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    msvcrt, path = Msvcrt(), tmp_path / "a" / "run.lock"
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    monkeypatch.setattr(locks, "on_windows", lambda: True)
    real_close, real_unlink, closed = os.close, Path.unlink, []

    def close(handle: int) -> None:
        closed.append(handle)
        msvcrt.held = {file: by for file, by in msvcrt.held.items() if by != handle}
        real_close(handle)

    def unlink(self: Path, missing_ok: bool = False) -> None:
        assert not msvcrt.held, "an open file cannot be removed on Windows"
        real_unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(os, "close", close)
    monkeypatch.setattr(Path, "unlink", unlink)
    with FolderLock(path):
        assert len(msvcrt.held) == 1
        with pytest.raises(LockedError), FolderLock(path):
            pass
        assert len(msvcrt.held) == 1
    assert len(closed) == 2 and list(tmp_path.iterdir()) == []


def test_a_file_that_the_next_one_holds_already_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.lock"
    monkeypatch.setattr(locks, "on_windows", lambda: True)

    def unlink(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "in use")

    with FolderLock(path):
        monkeypatch.setattr(Path, "unlink", unlink)
    monkeypatch.undo()
    assert path.exists()


def test_several_can_ask_at_once_whether_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question is no holder, neither for another question nor (for a moment) for a start."""
    path = tmp_path / "run.lock"
    path.touch()
    real, answers = locks._try_lock, []

    def slow(handle: int, *, is_shared: bool = False) -> bool:
        taken = real(handle, is_shared=is_shared)
        if not answers:
            answers.append(taken)
            answers.append(not is_held(path))
        return taken

    monkeypatch.setattr(locks, "_try_lock", slow)
    assert not is_held(path)
    assert answers == [True, True]


def test_whether_it_is_held_can_be_asked_without_taking_it(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    assert not is_held(path) and not path.exists()
    with holder(path) as other:
        assert is_held(path) and is_held(path)
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert path.exists() and not is_held(path)  # left by a crash
    assert path.exists() and not is_held(path)
    with FolderLock(path):
        assert is_held(path)
    assert not path.exists()
