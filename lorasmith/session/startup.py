"""Reports of the work before the first step, and the stop request that may end it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorasmith.errors import StopRequested
from lorasmith.runs.events import CacheProgress, Event, ShapesPrepared, Warned
from lorasmith.runs.ledger import Ledger
from lorasmith.runs.process_files import HeartbeatWriter, StopFlag


@dataclass(frozen=True, slots=True)
class StartupContext:
    """The ledger, the heartbeat and the stop flag of a run while it loads."""

    ledger: Ledger
    heart: HeartbeatWriter
    stop: StopFlag
    attempt: int

    def event(self, event: Event) -> None:
        self.ledger.append(event)

    def warn(self, code: str, **fields: Any) -> None:
        self.event(Warned(attempt=self.attempt, time=time.time(), code=code, fields=fields))

    def beat(self, phase: str) -> None:
        """Gives a sign of life; a stop request takes effect here.

        Raises:
            StopRequested: nothing was begun yet, so there is nothing to save.
        """
        self.heart.beat(0, phase)
        if self.stop.requested():
            raise StopRequested("stopped_before_start")

    def close(self) -> None:
        """Closes the staging folder's files, which can then be moved on any system. May be called again."""
        self.ledger.close()
        self.heart.close()

    def cached(self, done: int, total: int) -> None:
        """Reports that `done` of `total` pictures and captions are encoded."""
        self.event(CacheProgress(attempt=self.attempt, time=time.time(), done=done, total=total))
        self.beat("caching")

    def prepared(self, execution: str, done: int, total: int) -> None:
        """Reports that `done` of `total` shapes are recorded or compiled."""
        self.event(ShapesPrepared(attempt=self.attempt, time=time.time(), execution=execution, done=done, total=total))
        self.beat("compiling")

    def cache_damaged(self, path: Path) -> None:
        """Warns that a file of the cache was damaged and is made again."""
        self.warn("cache_damaged", path=str(path))
