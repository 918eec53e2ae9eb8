"""Fault points: places in the code at which a test can end the process, fail, fill the disk or hang, chosen by an
environment variable, `LORASMITH_FAULT=POINT:OCCURRENCE:ACTION`, as in `LORASMITH_FAULT=state.renamed:2:kill`.

Occurrences count from 1, in each process separately. Without the variable a point costs a test of an empty string.
Independent of the code at the points.
"""

from __future__ import annotations

import difflib
import errno
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple, NoReturn

from lorasmith.errors import ConfigError

VARIABLE = "LORASMITH_FAULT"

# Name of a point -> the event just before it.
POINTS: Mapping[str, str] = {
    "file.opened": "an empty file exists under its temporary name",
    "file.written": "all its bytes are handed to the system, not yet to the disk",
    "file.synced": "all its bytes are on the disk",
    "file.checked": "the file was read back and is correct",
    "file.renamed": "the file has its final name, but its folder is not synced",
    "folder.synced": "the names in a folder are on the disk",
    "state.begun": "the hidden folder of a state exists and is empty",
    "state.file": "another file of a state is written",
    "state.manifest": "the manifest of a state is written, its folder not yet synced",
    "state.verified": "a state was read back whole under its hidden name",
    "state.renamed": "a state has its final name, but the run folder is not synced",
    "state.set_aside": "a damaged state has its other name",
    "prune.chosen": "an old state is about to be removed",
    "prune.renamed": "the old state has a hidden name",
    "prune.removed": "the old state is removed",
    "ledger.appending": "a line is about to be appended",
    "ledger.appended": "the line is handed to the system",
    "ledger.synced": "the ledger is on the disk",
    "ledger.cut": "a torn tail is cut off, not yet on the disk",
    "heartbeat.written": "the heartbeat was overwritten in place",
    "lock.taken": "the lock of a folder is held",
    "promotion.planned": "the plan of a promotion is on the disk",
    "promotion.old_moved": "the old run is in the backup, the new one not yet in its place",
    "promotion.new_moved": "the new run is in its place, staging still there",
    "promotion.done": "the staging folder is removed",
    "move.begun": "a file or folder is about to be moved",
    "move.renamed": "it has its new path, but the folders are not synced",
    "move.doomed": "the original of a copy to another disk has a hidden name",
    "copy.file": "a file is copied to another disk, not yet synced",
    "copy.whole": "the whole copy exists under a hidden name",
    "copy.renamed": "the copy has its final name",
    "run.placed": "the run has its place and its settings, but no event in its ledger",
    "run.started": "RunStarted is on the disk; a new run has no state yet",
    "step.boundary": "a step is about to begin",
    "step.computed": "the step is applied, but not recorded",
    "step.told": "the step is in the ledger",
    "evaluation.begun": "an evaluation is about to begin",
    "evaluation.measured": "its pictures are on the disk, but nothing of it is recorded",
    "best.kept": "the LoRA of the best step is written, but not recorded",
    "evaluation.told": "the measurements and the best step are recorded",
    "end.saved": "the last state is saved",
    "end.backed_up": "the earlier export is in the backup",
    "end.exported": "the run's own export is written and recorded",
    "worker.told": "the last event of an attempt is on the disk, and its process about to exit",
    "csv.appended": "a row is appended",
    "tensorboard.appended": "a record is appended",
    "tensorboard.written": "a new file of curves exists under a hidden name",
    "tensorboard.cleared": "the older files are removed",
    "tensorboard.renamed": "the new file has its final name",
}


class InjectedError(Exception):
    """The error of the action `exception`: of a type that no code expects."""


def _kill(_: str) -> NoReturn:
    os.kill(os.getpid(), signal.Signals["SIGTERM" if sys.platform == "win32" else "SIGKILL"])
    raise AssertionError("killed")


def _exception(point: str) -> NoReturn:
    raise InjectedError(point)


def _no_space(point: str) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), point)


def _hang(_: str) -> NoReturn:
    while True:
        time.sleep(60)


ACTIONS: Mapping[str, Callable[[str], NoReturn]] = {
    "kill": _kill,
    "exception": _exception,
    "no_space": _no_space,
    "hang": _hang,
}


class Fault(NamedTuple):
    """The point, occurrence and action that the variable names."""

    point: str
    occurrence: int
    action: str


_chosen = os.environ.get(VARIABLE, "")
_reached: Counter[str] = Counter()


def fault_point(name: str) -> None:
    """Marks a place. Does nothing, unless the variable names this point."""
    if _chosen:
        _at(name)


def choose_fault(chosen: str) -> None:
    """Sets the fault of this process and forgets the points reached so far: for children forked by a test.

    Raises:
        ConfigError: `chosen` is no fault.
    """
    global _chosen
    if chosen:
        fault_of(chosen)
    _chosen = chosen
    _reached.clear()


def check_fault() -> None:
    """Refuses a fault that can never happen, so that its test cannot seem to pass.

    Raises:
        ConfigError: the variable holds no fault.
    """
    if _chosen:
        fault_of(_chosen)


def fault_of(chosen: str) -> Fault:
    """Parses POINT:OCCURRENCE:ACTION.

    Raises:
        ConfigError: there is no such point or action, or the occurrence is no number from 1 on.
    """
    point, _, rest = chosen.partition(":")
    occurrence, _, action = rest.partition(":")
    is_counted = occurrence.isascii() and occurrence.isdigit() and int(occurrence) > 0
    if point not in POINTS or action not in ACTIONS or not is_counted:
        nearest = difflib.get_close_matches(point, POINTS, n=1, cutoff=0)[0]
        raise ConfigError("fault_unknown", variable=VARIABLE, given=chosen, actions="|".join(ACTIONS), nearest=nearest)
    return Fault(point, int(occurrence), action)


def _at(name: str) -> None:
    fault = fault_of(_chosen)
    _reached[name] += 1
    if (name, _reached[name]) == fault[:2]:
        ACTIONS[fault.action](name)
