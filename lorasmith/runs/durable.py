"""Atomic, durable writing of files, and errors of the disk as errors of this program."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from lorasmith.errors import InputError, ResourceError
from lorasmith.faults import fault_point
from lorasmith.runs.layout import free_name

IN_USE_SECONDS = 5.0  # patience with a file that another program holds open on Windows
IN_USE_PAUSE_SECONDS = 0.1
# Errors of file systems that cannot sync a folder (some of CIFS and FUSE): nothing more can be done.
NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF})
REFUSALS = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG),
        *(errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS),  # file systems without locks
    }
)

T = TypeVar("T")


def write_atomically(
    path: Path, data: bytes | Iterable[bytes], *, check: Callable[[Path], None] | None = None, is_new: bool = False
) -> Path:
    """Writes `data` or its pieces to `path` completely or not at all: temporary name, fsync, `check`, rename, fsync of
    the folder.

    Returns the path written: another name if a program on Windows holds the file open for more than 5 s.

    Args:
        is_new: a file that another program has written to `path` meanwhile is not replaced.

    Raises:
        InputError: `tool_output_exists`, with `is_new`.
        ResourceError: the disk is full.
        Exception: whatever `check` raises; the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with map_disk_full(path):
            write_durably(temporary, data)
        if check is not None:
            check(temporary)
            fault_point("file.checked")
        with map_disk_full(path):
            written = place_new(temporary, path) if is_new else _replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    with map_disk_full(path):  # a folder may need space for the name
        fault_point("file.renamed")
        sync_folder(path.parent)
    return written


def place_new(source: Path, target: Path) -> Path:
    """Gives a file or a folder its name, unless something has that name already.

    Raises:
        InputError: `tool_output_exists`.
    """
    is_linked = source.is_file() and _link(source, target)
    if not is_linked and os.path.lexists(target):
        raise InputError("tool_output_exists", path=str(target))
    if is_linked:
        source.unlink()
    else:
        source.rename(target)
    return target


def _link(source: Path, target: Path) -> bool:
    """Gives a file a second name; False where the name is taken, or the file system has no such links."""
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def write_durably(path: Path, data: bytes | memoryview | Iterable[bytes]) -> None:
    """Writes a file and waits until it is on the disk."""
    with path.open("wb") as file:
        fault_point("file.opened")
        for piece in (data,) if isinstance(data, bytes | memoryview) else data:
            file.write(piece)
        file.flush()
        fault_point("file.written")
        os.fsync(file.fileno())
    fault_point("file.synced")


def make_folder(folder: Path) -> None:
    """Creates a folder and its missing parents; all of them survive a power cut."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames in `folder` survive a power cut. Does nothing on Windows, which has no such call and needs none."""
    if on_windows():
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)
    fault_point("folder.synced")


def is_disk_full(error: OSError) -> bool:
    """Whether a disk or a quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def map_disk_full(path: Path) -> Iterator[None]:
    """Turns the error of a full disk or quota into ResourceError `disk_full` with `path`."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise ResourceError("disk_full", path=str(path)) from error
        raise


@contextmanager
def map_write_errors(folder: Path) -> Iterator[None]:
    """Turns the errors of a folder that cannot be written or locked, and of a full disk, into InputErrors: before a run
    has begun the user can correct them."""
    try:
        with map_disk_full(folder):
            yield
    except ResourceError as error:
        raise InputError(error.code, **error.fields) from error
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise InputError("file_too_large", folder=str(folder)) from error
        if error.errno in REFUSALS:
            raise InputError("output_not_writable", folder=str(folder), reason=str(error.strerror)) from error
        raise


def retry_while_open(action: Callable[[], T]) -> T:
    """Calls `action`, again for up to 5 s while Windows refuses it because a program holds a file open.

    Raises:
        PermissionError: it is still refused; on other systems at once.
    """
    give_up_at = time.monotonic() + IN_USE_SECONDS
    while True:
        try:
            return action()
        except PermissionError:
            if not on_windows() or time.monotonic() >= give_up_at:
                raise
            time.sleep(IN_USE_PAUSE_SECONDS)


def on_windows() -> bool:
    return sys.platform == "win32"


def _replace(source: Path, target: Path) -> Path:
    """Renames `source` to `target`, or to another name if a program on Windows keeps the target open."""
    try:
        retry_while_open(lambda: os.replace(source, target))
    except PermissionError:
        if not on_windows():
            raise
        target = free_name(target)
        os.replace(source, target)
    return target
