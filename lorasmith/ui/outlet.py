"""A stream that never makes its writer wait: a run must not stand still because nobody reads what is told of it."""

from __future__ import annotations

import select
import sys
from collections import deque
from typing import TextIO

PIECE = 1000  # characters; a pipe that has room at all has room for 4096 bytes
MOST_PIECES = 2000


class Outlet:
    """What `out` does not take now (a pager that is not scrolled, a terminal held by Ctrl+S) is kept, and offered again
    at each call; of more than some 2000 lines the oldest are given up.

    Where the system cannot tell whether a stream takes anything (Windows) it is believed to.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._kept: deque[str] = deque(maxlen=MOST_PIECES)
        self.encoding = getattr(out, "encoding", None) or "utf-8"

    @property
    def is_behind(self) -> bool:
        """Whether something waits to be taken."""
        return bool(self._kept)

    def isatty(self) -> bool:
        return self._out.isatty()

    def write(self, text: str) -> int:
        self._kept.extend(text[at : at + PIECE] for at in range(0, len(text), PIECE))
        return len(text)

    def flush(self) -> None:
        """Gives `out` what it takes now.

        Raises:
            OSError: it is gone.
        """
        while self._kept and self._takes():
            self._out.write(self._kept.popleft())
            self._out.flush()

    def _takes(self) -> bool:
        if sys.platform == "win32":
            return True
        try:
            handle = self._out.fileno()
        except (OSError, AttributeError):  # no file of the system: one in memory
            return True
        # poll: select cannot ask about handles above 1023
        asked = select.poll()
        asked.register(handle, select.POLLOUT)
        return bool(asked.poll(0))
