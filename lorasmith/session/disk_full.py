"""Decides when a save on a full disk is tried again and how long the end of a run waits. The caller does the I/O."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lorasmith.errors import ResourceError
from lorasmith.runs.process_files import monotonic

FULL = "disk_full"
AGAIN_SECONDS = 10.0  # between two tries
MAX_SECONDS = 600.0  # of waiting at the end of a run
BEAT_SECONDS = 1.0  # between two heartbeats of a run that waits


@dataclass(slots=True)
class DiskFullRetry:
    """Keeps whether the newest save failed because the disk was full. A test passes its own `now` and `sleep`."""

    now: Callable[[], float] = field(default=monotonic)
    sleep: Callable[[float], None] = field(default=time.sleep)
    _failed_at: float | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether the newest save failed."""
        return self._failed_at is not None

    def is_due(self) -> bool:
        """Whether a failed save should be tried again."""
        return self._failed_at is not None and self.now() - self._failed_at >= AGAIN_SECONDS

    def failed(self) -> bool:
        """Records a failed save; returns whether it is the first since one succeeded."""
        is_first = self._failed_at is None
        self._failed_at = self.now()
        return is_first

    def succeeded(self) -> bool:
        """Records a save; returns whether the one before it failed."""
        had_failed = self._failed_at is not None
        self._failed_at = None
        return had_failed

    def wait(
        self,
        actions: Sequence[Callable[[], None]],
        *,
        begins: Callable[[], None],
        alive: Callable[[], None],
        stop_requested: Callable[[], bool],
    ) -> None:
        """Does the actions in order. An action that finds the disk full is repeated every 10 s, for 10 minutes in all
        or until a stop is requested. Calls `begins` before the first wait and `alive` once a second while it waits.

        Raises:
            ResourceError: the disk stayed full, or another resource is missing.
        """
        began = self.now()
        has_waited = False
        for action in actions:
            while not _try(action, is_last=self.now() - began >= MAX_SECONDS or stop_requested()):
                if not has_waited:
                    has_waited = True
                    begins()
                again_at = self.now() + AGAIN_SECONDS
                while self.now() < again_at and not stop_requested():
                    alive()
                    self.sleep(BEAT_SECONDS)


def _try(action: Callable[[], None], *, is_last: bool) -> bool:
    """Does the action; returns whether it succeeded. The last try raises what went wrong."""
    try:
        action()
    except ResourceError as error:
        if is_last or error.code != FULL:
            raise
        return False
    return True
