"""One living supervisor, and one living worker, for each run folder: locks that the kernel releases when their holder
dies.

A lock file lies at its path only while it is held or after a crash. Children do not inherit it.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from lorasmith.errors import LockedError
from lorasmith.faults import fault_point
from lorasmith.runs.durable import on_windows

AGAIN_SECONDS = 0.02
FACTS_AT = 1  # bytes into the file: the first one is what Windows locks, and nobody else may read it then


class FolderLock:
    """Holds `path` for one process; a context manager.

    Waits `wait_seconds` for another to let go. `facts` are for those who find it held: see `facts_of_holder`.
    Takes away at the end what it made: the file, and the folder where that was not there before and is still empty.
    """

    def __init__(self, path: Path, *, wait_seconds: float = 0.0, facts: Mapping[str, Any] | None = None) -> None:
        self._path = path
        self._wait_seconds = wait_seconds
        self._facts = facts
        self._handle: int | None = None
        self._made: list[Path] = []  # folders, outermost first

    def __enter__(self) -> FolderLock:
        """Takes the lock.

        Raises:
            LockedError: another process has it.
            OSError: the folder cannot be made, written to or locked; what was made of it is gone again.
        """
        give_up_at = time.monotonic() + self._wait_seconds
        try:
            while self._handle is None:
                try:
                    self._handle = self._taken()
                except LockedError:
                    if time.monotonic() >= give_up_at:
                        raise
                    time.sleep(AGAIN_SECONDS)
        except BaseException:
            self._take_folders_away()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._handle is not None
        handle, self._handle = self._handle, None
        if on_windows():  # an open file cannot be removed there
            os.close(handle)
            with suppress(PermissionError):  # the next one has it already
                self._path.unlink(missing_ok=True)
        else:
            with suppress(OSError):  # what is left of it is held by nobody
                if _same_file(handle, self._path):
                    self._path.unlink()
            os.close(handle)
        self._take_folders_away()

    def _taken(self) -> int | None:
        """The handle of the locked file; None where its holder took file or folder away meanwhile: try again."""
        self._make_folders()
        try:
            handle, is_made = self._opened()
        except FileNotFoundError:
            return None
        try:
            if not self._try(handle, is_made=is_made):
                raise LockedError("folder_locked", folder=str(self._path.parent))
            # Between open and lock the holder may have taken the file away: then this is a lock on nothing.
            if _same_file(handle, self._path):
                self._write_facts(handle)
                fault_point("lock.taken")
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        return None

    def _opened(self) -> tuple[int, bool]:
        """Its handle, and whether the file was made for it."""
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            if self._path.is_symlink() and not self._path.exists():
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(self._path)) from None
            return os.open(self._path, os.O_RDWR), False

    def _try(self, handle: int, *, is_made: bool) -> bool:
        try:
            return _try_lock(handle)
        except OSError:  # as of a file system without locks
            if is_made:  # another's may be held: that the system refuses us says nothing about it
                self._path.unlink(missing_ok=True)
            raise

    def _write_facts(self, handle: int) -> None:
        """Over those of a holder that died."""
        if self._facts is not None:
            os.ftruncate(handle, 0)
            os.lseek(handle, FACTS_AT, os.SEEK_SET)
            os.write(handle, json.dumps(self._facts).encode())

    def _make_folders(self) -> None:
        missing = []
        folder = self._path.parent
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for one in reversed(missing):
            with suppress(FileNotFoundError):  # its parent was taken away meanwhile; opening the file will tell
                one.mkdir(exist_ok=True)
                self._made.append(one)

    def _take_folders_away(self) -> None:
        for folder in reversed(self._made):
            with suppress(OSError):  # something lies in it by now, or it is gone
                folder.rmdir()
        self._made.clear()


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock at `path`. Takes it from nobody: where it is free, a shared lock is tried for the
    moment it takes to ask, and only on a file that a crash left there.

    Raises:
        OSError: the file cannot be opened.
    """
    try:
        handle = os.open(path, os.O_RDWR if on_windows() else os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(handle, is_shared=True)
    finally:
        os.close(handle)  # which gives it back


def facts_of_holder(path: Path) -> dict[str, Any]:
    """What the newest holder of the lock wrote down about itself; {} where that cannot be read."""
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(FACTS_AT)
            facts = json.loads(file.read())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _try_lock(handle: int, *, is_shared: bool = False) -> bool:
    try:
        import fcntl
    except ImportError:
        import msvcrt

        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same_file(handle: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    held = os.fstat(handle)
    return (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino)
