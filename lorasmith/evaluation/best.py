"""The best step of a run: of all evaluated steps with an export, that with the lowest validation loss on held-out
pictures. Its export is kept as a file of its own. Knows nothing of how losses are measured.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorasmith.errors import ResourceError
from lorasmith.faults import fault_point
from lorasmith.runs.durable import write_atomically
from lorasmith.runs.events import AdapterExported, BestChosen, Evaluated, Event, Warned
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.naming import FileNames
from lorasmith.runs.states import has_sha256

NOT_KEPT, NO_ROOM = "best_not_kept", "best_without_room"


def best_of(events: Sequence[Event]) -> BestChosen | None:
    """The newest choice among the surviving events of a run."""
    chosen = [event for event in events if isinstance(event, BestChosen)]
    return chosen[-1] if chosen else None


def is_comparable(validation: Mapping[str, Any], *, examples: int, pictures: str) -> bool:
    """Whether a validation loss was measured on these pictures. Older versions recorded only their number."""
    return validation.get("examples") == examples and validation.get("pictures") in (None, "", pictures)


def comparable_best(events: Sequence[Event], *, examples: int, pictures: str = "") -> BestChosen | None:
    """The best step so far, if its validation loss can be compared with losses on these held-out examples."""
    best = best_of(events)
    for event in events:
        if best is not None and isinstance(event, Evaluated) and event.step == best.step and not event.is_control:
            described = event.validation or {}
            if described.get("is_held_out") and is_comparable(described, examples=examples, pictures=pictures):
                return best
    return None


@dataclass(slots=True)
class BestKeeper:
    """Chooses the best step and keeps a copy of its export."""

    run: RunFolder
    attempt: int
    names: FileNames
    best: BestChosen | None = None

    @property
    def protected(self) -> frozenset[int]:
        """Steps whose states must not be removed."""
        return frozenset() if self.best is None else frozenset({self.best.step})

    def consider(self, evaluated: Evaluated, exported: AdapterExported | None) -> list[Event]:
        """Chooses the step if it is the best so far and has an export, and copies that; returns the event to record."""
        validation = evaluated.validation or {}
        if evaluated.is_control or not validation.get("is_held_out") or exported is None:
            return []
        if exported.step != evaluated.step or (self.best is not None and validation["loss"] >= self.best.loss):
            return []
        path = _copied(self.run, exported, self.names.best)
        if isinstance(path, Warned):
            return [path]
        fault_point("best.kept")
        self.best = BestChosen(
            attempt=self.attempt,
            time=time.time(),
            step=evaluated.step,
            loss=validation["loss"],
            standard_error=validation["standard_error"],
            path=self.names.recorded(path),
            sha256=exported.sha256,
        )
        return [self.best]

    def put_back(self, events: Sequence[Event]) -> list[Event]:
        """Copies the export of the best step again if the file is missing or differs, as after a choice that was
        cancelled or never recorded; returns a warning if that fails."""
        if self.best is None or has_sha256(self.run.root / self.best.path, self.best.sha256):
            return []
        warnings: list[Event] = []
        for event in events:
            if isinstance(event, AdapterExported) and event.step == self.best.step:
                path = _copied(self.run, event, self.names.best)
                if not isinstance(path, Warned):
                    return []
                warnings = [path]
        return warnings

    def catch_up(self, events: Sequence[Event], *, examples: int, pictures: str = "") -> list[Event]:
        """Considers the newest evaluation over these held-out examples, if a start died before it did; returns the
        event to record."""
        newest: Evaluated | None = None
        was_considered = False
        exported: dict[int, AdapterExported] = {}
        for event in events:
            if isinstance(event, AdapterExported):
                exported[event.step] = event
            elif isinstance(event, Evaluated) and not event.is_control:
                newest, was_considered = event, False
            elif isinstance(event, BestChosen) or (isinstance(event, Warned) and event.code in (NOT_KEPT, NO_ROOM)):
                was_considered = True
        if newest is None or was_considered:
            return []
        if not is_comparable(newest.validation or {}, examples=examples, pictures=pictures):
            return []
        return self.consider(newest, exported.get(newest.step))


class _OtherContentError(Exception):
    """The bytes that were read back differ from those that were written."""


def _copied(run: RunFolder, exported: AdapterExported, destination: Path) -> Path | Warned:
    """Copies an export to that of the best step; returns its path, or a warning if the export was changed since
    it was written or the disk is full."""
    fields = {"step": exported.step, "path": exported.path}
    warning = Warned(attempt=exported.attempt, time=time.time(), code=NOT_KEPT, fields=fields)

    def check(file: Path) -> None:
        if not has_sha256(file, exported.sha256):
            raise _OtherContentError

    try:
        return write_atomically(destination, (run.root / exported.path).read_bytes(), check=check)
    except (FileNotFoundError, _OtherContentError):
        return warning
    except ResourceError:
        if has_sha256(destination, exported.sha256):  # only syncing the folder failed, and the next save does that
            return destination
        return Warned(attempt=exported.attempt, time=time.time(), code=NO_ROOM, fields=fields)
