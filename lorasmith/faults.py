"""Places in the code at which a test can end the process, fail, fill the disk or hang, chosen by one environment
variable: `LORASMITH_FAULT=POINT:OCCURRENCE:ACTION`, as in `LORASMITH_FAULT=state.renamed:2:kill`.

Occurrences count from 1, in each process for itself. Without the variable a point is one look at an empty string.
Knows nothing of what is done at its points.
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

# Every point, and what has just been done when it is reached.
POINTS: Mapping[str, str] = {
    "file.opened": "a file is there, empty, under its temporary name",
    "file.written": "all its bytes are handed to the system, not yet to the disk",
    "file.synced": "they are on the disk",
    "file.checked": "it was read back and found right",
    "file.renamed": "it has its final name; the folder does not know that durably",
    "folder.synced": "the names in a folder are on the disk",
    "state.begun": "the hidden folder of a state is there, empty",
    "state.file": "one more file of a state is written",
    "state.manifest": "the manifest of a state is written, its folder not yet synced",
    "state.verified": "a state was read back whole under its hidden name",
    "state.renamed": "a state has its final name; the run folder does not know that durably",
    "state.set_aside": "a damaged state has its other name",
    "prune.chosen": "an old state is about to go",
    "prune.renamed": "it is hidden",
    "prune.removed": "it is gone",
    "ledger.appending": "a line is about to be appended",
    "ledger.appended": "it is handed to the system",
    "ledger.synced": "the ledger is on the disk",
    "ledger.cut": "a torn tail is cut off, not yet on the disk",
    "heartbeat.written": "the heartbeat was overwritten in place",
    "lock.taken": "the lock of a folder is held",
    "promotion.planned": "the plan of a promotion is on the disk",
    "promotion.old_moved": "the old run is in the backup, the new one not yet in its place",
    "promotion.new_moved": "the new run is in its place, staging still there",
    "promotion.done": "staging is gone",
    "move.begun": "something is about to be moved",
    "move.renamed": "it has its new place, the folders not yet synced",
    "move.doomed": "what was copied to another disk is hidden where it was",
    "copy.file": "a file is copied to another disk, not yet synced",
    "copy.whole": "all of it is copied, under a hidden name",
    "copy.renamed": "it has its name there",
    "run.placed": "the run has its place and its settings, and no word yet in its ledger",
    "run.started": "its start is on the disk in its ledger; of a new run there is no state yet",
    "step.boundary": "a step is about to begin",
    "step.computed": "it is applied, and not yet told",
    "step.told": "it is in the ledger",
    "evaluation.begun": "what was learned is about to be looked at",
    "evaluation.measured": "it was measured, its pictures are on the disk, and nothing of it is told",
    "best.kept": "the LoRA of the best step is there under that name, and not yet told",
    "evaluation.told": "all that was measured is told, and which step is the best",
    "end.saved": "the last state is saved",
    "end.backed_up": "the export that was there is in the backup",
    "end.exported": "the run's own export is in place and told",
    "worker.told": "the last word of an attempt is on the disk, and its process about to leave",
    "csv.appended": "one row more",
    "tensorboard.appended": "one record more",
    "tensorboard.written": "a new file of curves is there under a hidden name",
    "tensorboard.cleared": "the older ones are gone",
    "tensorboard.renamed": "it has its name",
}


class InjectedError(Exception):
    """What a point raises for the action `exception`: something nobody expects."""


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
    """What the variable says."""

    point: str
    occurrence: int
    action: str


_chosen = os.environ.get(VARIABLE, "")
_reached: Counter[str] = Counter()


def fault_point(name: str) -> None:
    """Marks a place: nothing, unless the variable names this very one."""
    if _chosen:
        _at(name)


def choose_fault(chosen: str) -> None:
    """From now on `chosen` holds in this process, with nothing reached yet: for children forked by a test.

    Raises:
        ConfigError: it is no fault.
    """
    global _chosen
    if chosen:
        fault_of(chosen)
    _chosen = chosen
    _reached.clear()


def check_fault() -> None:
    """Said before anything is done: a fault that can never happen must not look like a test that passed.

    Raises:
        ConfigError: the variable holds no fault.
    """
    if _chosen:
        fault_of(_chosen)


def fault_of(chosen: str) -> Fault:
    """What POINT:OCCURRENCE:ACTION means.

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
