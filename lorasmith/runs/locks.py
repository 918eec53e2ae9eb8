"""Locks for one supervisor and one worker per run folder, which the kernel releases when their holder dies.

A lock file exists only while the lock is held, or after a crash. Child processes do not inherit it. Why this is not
filelock: docs/adr/0020-own-locks-psutil-for-processes.md.
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

RETRY_SECONDS = 0.02
MAX_VANISHED = 1000  # tries; where nothing can be created, as in /proc, the file is always gone
FACTS_AT = 1  # byte offset: Windows locks the first byte, which no other process may read then


class FolderLock:
    """A context manager that holds the lock at `path`.

    Waits up to `wait_seconds` for another process to release it. `facts` are for processes that find it held: see
    `facts_of_holder`. At the end it removes what it has created: the file, and the folders if they are still empty.
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
            OSError: the folder cannot be created, written to or locked; what was created is removed again.
        """
        give_up_at, vanished = time.monotonic() + self._wait_seconds, 0
        try:
            while self._handle is None:
                if vanished > MAX_VANISHED:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._path.parent))
                try:
                    self._handle = self._try_once()
                    vanished += self._handle is None
                except LockedError:
                    if time.monotonic() >= give_up_at:
                        raise
                    time.sleep(RETRY_SECONDS)
        except BaseException:
            self._remove_folders()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._handle is not None
        handle, self._handle = self._handle, None
        if on_windows():  # an open file cannot be removed there
            os.close(handle)
            with suppress(PermissionError):  # the next holder has opened it already
                self._path.unlink(missing_ok=True)
        else:
            with suppress(OSError):  # a file that stays is not locked
                if _same_file(handle, self._path):
                    self._path.unlink()
            os.close(handle)
        self._remove_folders()

    def _try_once(self) -> int | None:
        """Returns the handle of the locked file; None if its last holder has removed file or folder: try again."""
        self._make_folders()
        try:
            handle, is_new = self._open()
        except FileNotFoundError:
            return None
        try:
            if not self._lock(handle, is_new=is_new):
                raise LockedError("folder_locked", folder=str(self._path.parent))
            # The last holder may have removed the file between open and lock: then this lock keeps no process out.
            if _same_file(handle, self._path):
                self._write_facts(handle)
                fault_point("lock.taken")
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        return None

    def _open(self) -> tuple[int, bool]:
        """Returns a handle of the file, and whether the file was created."""
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            if self._path.is_symlink() and not self._path.exists():
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(self._path)) from None
            return os.open(self._path, os.O_RDWR), False

    def _lock(self, handle: int, *, is_new: bool) -> bool:
        try:
            return _try_lock(handle)
        except OSError:  # the file system has no locks, for example
            if is_new:  # the file of another process may be locked all the same
                self._path.unlink(missing_ok=True)
            raise

    def _write_facts(self, handle: int) -> None:
        """Replaces the facts of a holder that died."""
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
        for folder in reversed(missing):
            with suppress(FileNotFoundError):  # its parent was removed meanwhile: opening the file fails too
                folder.mkdir(exist_ok=True)
                self._made.append(folder)

    def _remove_folders(self) -> None:
        for folder in reversed(self._made):
            with suppress(OSError):  # it is not empty, or does not exist any more
                folder.rmdir()
        self._made.clear()


def is_held(path: Path) -> bool:
    """Whether a process holds the lock at `path`.

    Disturbs no holder: it tries a shared lock, for a moment, and only if the file exists.

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
        os.close(handle)  # this releases the lock


def facts_of_holder(path: Path) -> dict[str, Any]:
    """Returns the facts that the holder of the lock has written; {} if there are none."""
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
