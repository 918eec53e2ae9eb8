"""`supervisor.jsonl`: what the supervisor itself has to say, kept back until there is a run to say it in."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from lorasmith.errors import ResourceError
from lorasmith.runs.durable import map_disk_full
from lorasmith.runs.events import Event
from lorasmith.runs.ledger import Ledger


class OwnLog:
    """Only the supervisor of the run writes to `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: list[Event] = []
        self._is_open = False

    def add(self, event: Event) -> Event:
        """Also the event, for whoever passes it on."""
        self._waiting.append(event)
        if self._is_open:
            self.write()
        return event

    def write(self) -> None:
        """There is a run now: what waits is written, and all that comes at once. Where the disk takes
        nothing it waits on."""
        self._is_open = True
        if not self._waiting:
            return
        with suppress(ResourceError, OSError), map_disk_full(self._path), Ledger(self._path) as log:
            while self._waiting:
                log.append(self._waiting[0])
                del self._waiting[0]
