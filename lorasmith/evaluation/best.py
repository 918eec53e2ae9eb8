"""The best step of a run: the one whose validation loss on held-out pictures is the lowest, of those with an export.

Its export is kept as a file of its own. Knows nothing of how losses are measured.
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
from lorasmith.runs.states import has_sha256

NOT_KEPT, NO_ROOM = "best_not_kept", "best_without_room"


def best_of(events: Sequence[Event]) -> BestChosen | None:
    """Of the surviving events of a run."""
    chosen = [event for event in events if isinstance(event, BestChosen)]
    return chosen[-1] if chosen else None


def is_comparable(validation: Mapping[str, Any], *, examples: int, pictures: str) -> bool:
    """Whether a validation loss was measured on these pictures; of older versions by their number alone."""
    return validation.get("examples") == examples and validation.get("pictures") in (None, "", pictures)


def comparable_best(events: Sequence[Event], *, examples: int, pictures: str = "") -> BestChosen | None:
    """The best so far that a validation loss over these held-out examples can be held against."""
    best = best_of(events)
    for event in events:
        if best is not None and isinstance(event, Evaluated) and event.step == best.step and not event.is_control:
            described = event.validation or {}
            if described.get("is_held_out") and is_comparable(described, examples=examples, pictures=pictures):
                return best
    return None


@dataclass(slots=True)
class BestKeeper:
    """Kept by the recorder: what is best so far, and where its file lies."""

    run: RunFolder
    attempt: int
    export_name: str
    best: BestChosen | None = None

    @property
    def protected(self) -> frozenset[int]:
        """Steps whose states stay."""
        return frozenset() if self.best is None else frozenset({self.best.step})

    def look_at(self, evaluated: Evaluated, exported: AdapterExported | None) -> list[Event]:
        """The choice, where this step is the best so far and has an export; its file is in place then."""
        validation = evaluated.validation or {}
        if evaluated.is_control or not validation.get("is_held_out") or exported is None:
            return []
        if exported.step != evaluated.step or (self.best is not None and validation["loss"] >= self.best.loss):
            return []
        path = _copied(self.run, exported, self.export_name)
        if isinstance(path, Warned):
            return [path]
        fault_point("best.kept")
        self.best = BestChosen(
            attempt=self.attempt,
            time=time.time(),
            step=evaluated.step,
            loss=validation["loss"],
            standard_error=validation["standard_error"],
            path=path.name,
            sha256=exported.sha256,
        )
        return [self.best]

    def put_back(self, events: Sequence[Event]) -> list[Event]:
        """Copies the file again that the best step must have, from that step's export: where the one that was there
        belonged to a step that is cancelled, or to a choice that was never told."""
        if self.best is None or has_sha256(self.run.root / self.best.path, self.best.sha256):
            return []
        tried: list[Event] = []
        for event in events:
            if isinstance(event, AdapterExported) and event.step == self.best.step:
                path = _copied(self.run, event, self.export_name)
                if not isinstance(path, Warned):
                    return []
                tried = [path]
        return tried

    def catch_up(self, events: Sequence[Event], *, examples: int, pictures: str = "") -> list[Event]:
        """Looks at the newest evaluation, over so many held-out examples, where a start died before it had looked."""
        newest: Evaluated | None = None
        was_looked_at = False
        exported: dict[int, AdapterExported] = {}
        for event in events:
            if isinstance(event, AdapterExported):
                exported[event.step] = event
            elif isinstance(event, Evaluated) and not event.is_control:
                newest, was_looked_at = event, False
            elif isinstance(event, BestChosen) or (isinstance(event, Warned) and event.code in (NOT_KEPT, NO_ROOM)):
                was_looked_at = True
        if newest is None or was_looked_at:
            return []
        if not is_comparable(newest.validation or {}, examples=examples, pictures=pictures):
            return []
        return self.look_at(newest, exported.get(newest.step))


class _OtherContentError(Exception):
    """What was read back is not what was written."""


def _copied(run: RunFolder, exported: AdapterExported, export_name: str) -> Path | Warned:
    """The export under the name of the best one, whole; a warning where it is not what it was when it was written, or
    where the disk has no room for it."""
    fields = {"step": exported.step, "path": exported.path}
    warning = Warned(attempt=exported.attempt, time=time.time(), code=NOT_KEPT, fields=fields)

    def check(file: Path) -> None:
        if not has_sha256(file, exported.sha256):
            raise _OtherContentError

    target = run.best_export(export_name)
    try:
        return write_atomically(target, (run.root / exported.path).read_bytes(), check=check)
    except (FileNotFoundError, _OtherContentError):
        return warning
    except ResourceError:
        if has_sha256(target, exported.sha256):  # only its folder could not be synced, and the next save does that
            return target
        return Warned(attempt=exported.attempt, time=time.time(), code=NO_ROOM, fields=fields)
