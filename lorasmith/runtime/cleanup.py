"""Cleans up after a start that was killed: ends its worker, and removes files that were never completed.

The caller holds the run's lock: any worker still alive is an orphan.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from lorasmith.errors import ConfigError, LockedError, ResourceError
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.locks import FolderLock, facts_of_holder, is_held
from lorasmith.runs.naming import names_in
from lorasmith.runs.process_files import monotonic, request_stop
from lorasmith.runs.promotion import finish_promotion, remove_staging, strangers_in_staging
from lorasmith.runtime.processes import (
    INTERRUPT,
    INTERRUPT_SECONDS,
    KILL_SECONDS,
    TERMINATE_SECONDS,
    end_tree,
)

POLL_SECONDS = 0.02
# The hidden names that files and folders have while they are written, copied and removed.
UNFINISHED = re.compile(r"^\..+\.(?:[0-9]+|moved|copied|removed)\.tmp$")


def end_orphan(run: RunFolder) -> int | None:
    """Ends the worker of a supervisor that was killed: interrupts, terminates, kills it.

    Returns its process id; None if there is no such worker.

    Raises:
        LockedError: its process cannot be identified, or cannot be ended.
    """
    path = run.worker_lock
    if not is_held(path):
        return None
    facts = facts_of_holder(path)
    pid, attempt = facts.get("pid"), facts.get("attempt")
    if not isinstance(pid, int) or not isinstance(attempt, int) or not _has_open(pid, path):
        if _is_released(path, INTERRUPT_SECONDS):
            return None
        raise LockedError("folder_locked", folder=str(run.root))
    ways: list[tuple[Callable[[], None], float]] = [
        (lambda: _interrupt(run, pid, attempt), INTERRUPT_SECONDS),
        (lambda: end_tree(pid), TERMINATE_SECONDS),
        (lambda: end_tree(pid, kill=True), KILL_SECONDS),
    ]
    for end, patience in ways:
        end()
        if _is_released(path, patience):
            run.stop_request.unlink(missing_ok=True)
            return pid
    raise LockedError("folder_locked", folder=str(run.root))


def remove_stale_worker_lock(run: RunFolder) -> None:
    """Removes the lock file of a worker that was killed."""
    if run.worker_lock.exists():
        with suppress(LockedError, OSError), FolderLock(run.worker_lock):
            pass


def clear_staging(run: RunFolder) -> bool:
    """Removes the staging folder, which holds nothing of the user's; completes a promotion that was interrupted.

    Returns whether the staged run is in its place, or nothing was staged.
    """
    if not run.staging.exists() or finish_promotion(run):
        return True
    remove_staging(run.staging)
    return False


def refuse_foreign_staging(run: RunFolder) -> None:
    """Refuses to start if a folder of the user has the name of the staging folder.

    Raises:
        ConfigError: it has.
    """
    if strangers_in_staging(run):
        raise ConfigError("staging_holds_other", folder=str(run.staging))


def leave_no_staging(run: RunFolder) -> None:
    """Clears the staging folder at the end of a start; what fails is left to the next start."""
    with suppress(OSError):
        clear_staging(run)


def remove_unfinished(run: RunFolder) -> None:
    """Removes files and folders under hidden names, which a killed process has left half written, copied or removed.

    Those that cannot be removed stay until the next start and do no harm.
    """
    for path in list(_unfinished(run)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(PermissionError):
                path.unlink()


def _unfinished(run: RunFolder) -> Iterator[Path]:
    """Looks only where runs write: deeper folders may belong to another run or to the user."""
    pattern = ".*.tmp"
    for folder in (run.root, run.tensorboard, run.samples, run.training_logs, run.backup):
        if folder.is_dir():
            yield from filter(_is_ours, folder.glob(pattern))
    names = names_in(run)
    if names.folder != run.root:  # LoRA files of others lie there too
        yield from (path for path in names.folder.glob(pattern) if _is_ours(path) and names.is_of(_final(path)))
    for folder, below in ((run.samples, f"*/{pattern}"), (run.backup, f"run_*/{pattern}")):
        if folder.is_dir():
            yield from filter(_is_ours, folder.glob(below))


def _is_ours(path: Path) -> bool:
    return UNFINISHED.match(path.name) is not None


def _final(path: Path) -> str:
    """The name that a file with a hidden name was to get."""
    return path.name.removeprefix(".").rsplit(".", 2)[0]


def _interrupt(run: RunFolder, pid: int, attempt: int) -> None:
    with suppress(OSError, ResourceError):  # the disk is full: the signal means the same
        request_stop(run, attempt, by_supervisor=True)
    with suppress(OSError):  # it has exited, or has no console
        os.kill(pid, INTERRUPT)


def _is_released(path: Path, seconds: float) -> bool:
    give_up_at = monotonic() + seconds
    while is_held(path):
        if monotonic() >= give_up_at:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _has_open(pid: int, path: Path) -> bool:
    """Whether the process has the file open. Another process may have this number by now, or the number may belong to
    a process in another container or on another machine."""
    import psutil

    try:
        return any(path.samefile(opened.path) for opened in psutil.Process(pid).open_files())
    except (psutil.Error, OSError):
        return False
