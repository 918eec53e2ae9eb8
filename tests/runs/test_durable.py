import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lorasmith.errors import InputError, ResourceError
from lorasmith.faults import choose_fault
from lorasmith.runs import durable
from lorasmith.runs.durable import (
    make_folder,
    map_disk_full,
    map_write_errors,
    sync_folder,
    write_atomically,
    write_durably,
)

NOON = datetime(2025, 3, 4, 12, 5, 6)


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now, self.naps = 0.0, 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.naps += 1


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(durable, "on_windows", lambda: True)
    monkeypatch.setattr(durable, "time", SimpleNamespace(monotonic=clock.monotonic, sleep=clock.sleep))
    return clock


def refusing(target: Path, until: Callable[[], bool], kind: type[OSError] = PermissionError) -> Any:
    """os.replace that refuses `target` for as long as a program has it open."""
    real = os.replace

    def replace(source: Path, to: Path) -> None:
        if Path(to) == target and not until():
            raise kind(errno.EACCES, "in use")
        real(source, to)

    return replace


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for content in (b"one", b"", b"two" * 100_000):
        assert write_atomically(path, content) == path
        assert path.read_bytes() == content
        assert list(tmp_path.iterdir()) == [path]


def test_a_file_larger_than_the_file_system_takes_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="file_too_large"), map_write_errors(tmp_path):
        raise OSError(errno.EFBIG, "File too large")


@pytest.mark.parametrize("has_links", [True, False])
def test_a_new_file_replaces_none_that_appeared_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    if not has_links:
        monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "a"
    with pytest.raises(InputError, match="tool_output_exists"):
        write_atomically(path, b"new", check=lambda _: path.write_text("theirs") and None, is_new=True)
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "theirs"
    path.unlink()
    assert write_atomically(path, b"new", is_new=True).read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_mode_is_that_of_any_new_file(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "a", b"x")
        (tmp_path / "plain").write_bytes(b"x")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "plain")}
    assert modes == {0o666 & ~mask}


def test_everything_is_on_the_disk_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes before the name, the name before the return: a power cut leaves the old file or the new one."""
    happened: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(handle: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        happened.append("folder" if is_folder else f"file of {os.fstat(handle).st_size}")
        real_fsync(handle)

    def replace(source: Path, target: Path) -> None:
        happened.append("rename")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_atomically(tmp_path / "a", b"12345", check=lambda _: happened.append("check"))
    assert happened == ["file of 5", "check", "rename", "folder"]


def test_check_sees_the_whole_file_under_another_name(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def check(temporary: Path) -> None:
        assert temporary.read_bytes() == b"new" and temporary.parent == tmp_path
        assert path.read_bytes() == b"old" and temporary.name.startswith(".")

    write_atomically(path, b"new", check=check)
    assert path.read_bytes() == b"new"


def test_what_check_refuses_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def check(temporary: Path) -> None:
        raise KeyError("bad")

    with pytest.raises(KeyError):
        write_atomically(path, b"new", check=check)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"old"


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_failure_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    if call == "write":
        real_open = Path.open

        def opened(self: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
            file = real_open(self, mode, *rest, **more)
            if mode == "wb":
                file = SimpleFile(file, fail)
            return file

        monkeypatch.setattr(Path, "open", opened)
    else:
        monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError if number == errno.EIO else ResourceError) as caught:
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"old"
    if isinstance(caught.value, ResourceError):
        assert (caught.value.code, caught.value.fields) == ("disk_full", {"path": str(path)})


class SimpleFile:
    """A file on a full disk."""

    def __init__(self, file: Any, write: Callable[..., None]) -> None:
        self._file, self.write = file, write

    def __enter__(self) -> "SimpleFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def test_a_device_without_room_is_named(tmp_path: Path) -> None:
    """The kernel's own words."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(ResourceError) as caught, map_disk_full(tmp_path / "a"):
        write_durably(Path("/dev/full"), b"x")
    assert caught.value.fields == {"path": str(tmp_path / "a")}


@pytest.mark.parametrize("point", ["file.opened", "file.written", "file.synced", "file.renamed", "folder.synced"])
def test_a_disk_that_is_full_at_any_point_is_named(tmp_path: Path, point: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    choose_fault(f"{point}:1:no_space")
    try:
        with pytest.raises(ResourceError, match="disk_full"):
            write_atomically(path, b"new")
    finally:
        choose_fault("")
    assert path.read_bytes() in (b"old", b"new") and list(tmp_path.iterdir()) == [path]


def test_a_kill_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    program = (
        "import os; from pathlib import Path; from lorasmith.runs.durable import write_atomically\n"
        f"write_atomically(Path({str(path)!r}), b'new', check=lambda _: os.kill(os.getpid(), 9))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2])
    assert done.returncode == -9
    assert path.read_bytes() == b"old"
    assert all(one.name.startswith(".") for one in tmp_path.iterdir() if one != path)


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "no" / "a", b"")
    assert list(tmp_path.iterdir()) == []


# -- Windows: a program holds the file open --------------------------------------------------------


def test_a_file_in_use_is_waited_for(tmp_path: Path, windows: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", refusing(path, lambda: windows.now >= 4.0))
    assert write_atomically(path, b"new") == path
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]
    assert windows.naps >= 10


def test_after_five_seconds_it_gets_another_name(
    tmp_path: Path, windows: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", refusing(path, lambda: False))
    assert write_atomically(path, b"new") == tmp_path / "a_2.csv"
    assert write_atomically(path, b"newer") == tmp_path / "a_3.csv"
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == {
        "a.csv": b"old",
        "a_2.csv": b"new",
        "a_3.csv": b"newer",
    }
    assert 10.0 <= windows.now <= 10.5


def test_where_no_name_can_be_written_nothing_is_left(
    tmp_path: Path, windows: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(os, "replace", never)
    with pytest.raises(PermissionError):
        write_atomically(tmp_path / "a", b"new")
    assert list(tmp_path.iterdir()) == []


def test_elsewhere_a_refusal_is_one_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(durable, "time", clock)
    monkeypatch.setattr(os, "replace", refusing(tmp_path / "a", lambda: False))
    with pytest.raises(PermissionError):
        write_atomically(tmp_path / "a", b"new")
    assert clock.naps == 0 and list(tmp_path.iterdir()) == []


def test_windows_is_not_asked_to_sync_a_folder(tmp_path: Path, windows: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("a folder cannot be opened there"))
    sync_folder(tmp_path)


def test_a_folder_is_made_with_those_above_it_and_each_is_synced_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new folder is gone after a power cut where the one it lies in was not waited for."""
    synced: list[Path] = []
    monkeypatch.setattr(durable, "sync_folder", synced.append)
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert synced == [tmp_path, tmp_path / "a"]
    make_folder(tmp_path / "a" / "b")
    assert len(synced) == 2
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "file")


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOSPC, "disk_full"), (errno.EDQUOT, "disk_full"), (errno.EROFS, "output_not_writable")],
)
def test_before_a_run_what_the_disk_refuses_is_the_user_s_to_mend(tmp_path: Path, number: int, code: str) -> None:
    with pytest.raises(InputError) as caught, map_write_errors(tmp_path):
        raise OSError(number, os.strerror(number))
    assert (caught.value.code, caught.value.exit_code) == (code, 2)
    with pytest.raises(OSError, match="Input/output"), map_write_errors(tmp_path):
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EBADF])
def test_a_file_system_that_cannot_sync_folders_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(_handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    durable.sync_folder(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _handle: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        durable.sync_folder(tmp_path)


def test_pieces_become_a_file_and_a_piece_that_fails_leaves_none(tmp_path: Path) -> None:
    def pieces(*, fails: bool) -> Iterator[bytes]:
        yield b"ab"
        if fails:
            raise ZeroDivisionError
        yield b"c"

    write_atomically(tmp_path / "whole", pieces(fails=False))
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "none", pieces(fails=True))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("whole", b"abc")]
