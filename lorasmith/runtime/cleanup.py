"""What a start finds of one that was killed: a worker that lives on, and files that were never finished.

Call with the run's lock held: then whatever else there is of this run has nobody to watch over it any more.
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
from lorasmith.runs.process_files import monotonic, request_stop
from lorasmith.runs.promotion import finish_promotion, remove_staging, strangers_in_staging
from lorasmith.runtime.processes import (
    INTERRUPT,
    INTERRUPT_SECONDS,
    KILL_SECONDS,
    TERMINATE_SECONDS,
    end_tree,
)

LOOK_SECONDS = 0.02
# The hidden names under which files and folders are written, copied and removed.
UNFINISHED = re.compile(r"^\..+\.(?:[0-9]+|moved|copied|removed)\.tmp$")


def end_orphan(run: RunFolder) -> int | None:
    """Ends the worker that its supervisor has left behind: asks, terminates, kills. Its process id; None where there is
    none.

    Raises:
        LockedError: it cannot be told which process it is, or it cannot be ended.
    """
    path = run.worker_lock
    if not is_held(path):
        return None
    facts = facts_of_holder(path)
    pid, attempt = facts.get("pid"), facts.get("attempt")
    if not isinstance(pid, int) or not isinstance(attempt, int) or not _has_open(pid, path):
        if _is_let_go(path, INTERRUPT_SECONDS):
            return None
        raise LockedError("folder_locked", folder=str(run.root))
    ways: list[tuple[Callable[[], None], float]] = [
        (lambda: _ask(run, pid, attempt), INTERRUPT_SECONDS),
        (lambda: end_tree(pid), TERMINATE_SECONDS),
        (lambda: end_tree(pid, kill=True), KILL_SECONDS),
    ]
    for end, patience in ways:
        end()
        if _is_let_go(path, patience):
            run.stop_request.unlink(missing_ok=True)
            return pid
    raise LockedError("folder_locked", folder=str(run.root))


def remove_stale_worker_lock(run: RunFolder) -> None:
    """Takes away the lock file of a worker that was killed."""
    if run.worker_lock.exists():
        with suppress(LockedError, OSError), FolderLock(run.worker_lock):
            pass


def clear_staging(run: RunFolder) -> bool:
    """Staging is ours alone: nothing of the user's is in it. But half of a promotion must not stay: it is finished.

    Whether what was staged has its place by now, or there was nothing.
    """
    if not run.staging.exists() or finish_promotion(run):
        return True
    remove_staging(run.staging)
    return False


def refuse_foreign_staging(run: RunFolder) -> None:
    """A folder of the user's may have the name under which a run is prepared.

    Raises:
        ConfigError: it does.
    """
    if strangers_in_staging(run):
        raise ConfigError("staging_holds_other", folder=str(run.staging))


def leave_no_staging(run: RunFolder) -> None:
    """At the end of a start: what cannot be done to it then, the next one does."""
    with suppress(OSError):
        clear_staging(run)


def remove_unfinished(run: RunFolder) -> None:
    """Removes what was being written, copied or removed under a hidden name of ours when its writer was killed. What
    the system does not let go of stays until another start: nobody takes it for anything."""
    for path in list(_unfinished(run)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(PermissionError):
                path.unlink()


def _unfinished(run: RunFolder) -> Iterator[Path]:
    """Only where runs write: deeper folders may be another run's, or the user's."""
    pattern = ".*.tmp"
    for folder in (run.root, run.tensorboard, run.samples, run.training_logs, run.backup):
        if folder.is_dir():
            yield from filter(_is_ours, folder.glob(pattern))
    for folder, below in ((run.samples, f"*/{pattern}"), (run.backup, f"run_*/{pattern}")):
        if folder.is_dir():
            yield from filter(_is_ours, folder.glob(below))


def _is_ours(path: Path) -> bool:
    return UNFINISHED.match(path.name) is not None


def _ask(run: RunFolder, pid: int, attempt: int) -> None:
    with suppress(OSError, ResourceError):  # a full disk takes no request: the signal means the same
        request_stop(run, attempt)
    with suppress(OSError):  # it is gone, or has no console
        os.kill(pid, INTERRUPT)


def _is_let_go(path: Path, seconds: float) -> bool:
    give_up_at = monotonic() + seconds
    while is_held(path):
        if monotonic() >= give_up_at:
            return False
        time.sleep(LOOK_SECONDS)
    return True


def _has_open(pid: int, path: Path) -> bool:
    """Whether the process has the file open. Another process may have this number by now; so may one here, if the
    number is that of a process in another container or on another machine."""
    import psutil

    try:
        return any(path.samefile(opened.path) for opened in psutil.Process(pid).open_files())
    except (psutil.Error, OSError):
        return False
