"""A disk that is full while a run goes on: when saving is tried again, and how long that is waited for at the end.

Writes nothing and tells nobody: what is to be written, and who is told, is for the caller to know.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lorasmith.errors import ResourceError
from lorasmith.runs.process_files import monotonic

FULL = "disk_full"
AGAIN_SECONDS = 10.0  # between two tries
MAX_SECONDS = 600.0  # at the end, for all there is to write
BEAT_SECONDS = 1.0  # between two signs of life of one that waits


@dataclass(slots=True)
class DiskFullRetry:
    """What the disk still owes the run. `now` and `sleep` are arguments, so that a test need not wait."""

    now: Callable[[], float] = field(default=monotonic)
    sleep: Callable[[float], None] = field(default=time.sleep)
    _lacked_at: float | None = None  # when a save last found no room

    @property
    def is_lacking(self) -> bool:
        """Whether the newest save found none."""
        return self._lacked_at is not None

    def is_due(self) -> bool:
        """Whether a save that found no room should be tried again."""
        return self._lacked_at is not None and self.now() - self._lacked_at >= AGAIN_SECONDS

    def lacked(self) -> bool:
        """A save found none; whether that is news."""
        is_news = self._lacked_at is None
        self._lacked_at = self.now()
        return is_news

    def found(self) -> bool:
        """A save found room; whether that is news."""
        is_news = self._lacked_at is not None
        self._lacked_at = None
        return is_news

    def wait(
        self,
        actions: Sequence[Callable[[], None]],
        *,
        begins: Callable[[], None],
        alive: Callable[[], None],
        stop_requested: Callable[[], bool],
    ) -> None:
        """Does all of it in order; an action that finds the disk full is done again every 10 s, for 10 minutes in all
        or until a stop is asked for. `begins` is called before the first wait, `alive` about once a second meanwhile.

        Raises:
            ResourceError: there was no room to the end.
        """
        began = self.now()
        is_waiting = False
        for action in actions:
            while not _is_done(action, is_last=self.now() - began >= MAX_SECONDS or stop_requested()):
                if not is_waiting:
                    is_waiting = True
                    begins()
                again_at = self.now() + AGAIN_SECONDS
                while self.now() < again_at and not stop_requested():
                    alive()
                    self.sleep(BEAT_SECONDS)


def _is_done(action: Callable[[], None], *, is_last: bool) -> bool:
    try:
        action()
    except ResourceError as error:
        if is_last or error.code != FULL:
            raise
        return False
    return True
