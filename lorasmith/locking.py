"""One living supervisor for each run folder: a lock that the kernel releases when its holder dies.

The lock file is empty and lies at its path only while a run holds it or after a crash. Children do not inherit it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from lorasmith.errors import LockedError
from lorasmith.run_folder import on_windows


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
            OSError: the folder cannot be made or written to; what was made of it is gone again.
        """
        try:
            while self._handle is None:
                self._handle = self._taken()
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
            if _same_file(handle, self._path):
                self._path.unlink()
            os.close(handle)
        self._take_folders_away()

    def _taken(self) -> int | None:
        """The handle of the locked file; None where its holder took file or folder away meanwhile: try again."""
        self._make_folders()
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            return None
        try:
            if not _try_lock(handle):
                raise LockedError("folder_locked", folder=str(self._path.parent))
            # Between open and lock the holder may have taken the file away: then this is a lock on nothing.
            if _same_file(handle, self._path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        return None

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
