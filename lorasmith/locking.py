"""One living supervisor for each run folder: a lock that the kernel releases when its holder dies.

The lock file is empty and stays at its path only while a run holds it or after a crash. It is not inherited by children.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType

from lorasmith.errors import LockedError


class FolderLock:
    """Holds `path` for one supervisor; a context manager.

    Takes away at the end what it made: the file, and the folder where that was not there before and is still empty.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None
        self._made: list[Path] = []  # folders, outermost first

    def __enter__(self) -> FolderLock:
        """Takes the lock.

        Raises:
            LockedError: another process has it.
        """
        self._make_folders()
        while self._handle is None:
            existed = self._path.exists()
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            if not _try_lock(handle):
                os.close(handle)
                raise LockedError("folder_locked", folder=str(self._path.parent))
            # Between open and lock the holder may have taken the file away: then this is a lock on nothing.
            if _same_file(handle, self._path):
                self._handle = handle
                if not existed:
                    self._made.append(self._path)
            else:
                os.close(handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._handle is not None
        if os.name == "nt" or sys.platform == "win32":  # an open file cannot be removed there
            os.close(self._handle)
            self._path.unlink(missing_ok=True)
        else:
            self._path.unlink(missing_ok=True)
            os.close(self._handle)
        self._handle = None
        for folder in reversed([one for one in self._made if one != self._path]):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _make_folders(self) -> None:
        missing = []
        folder = self._path.parent
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for one in reversed(missing):
            one.mkdir(exist_ok=True)
            self._made.append(one)


def _try_lock(handle: int) -> bool:
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
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
