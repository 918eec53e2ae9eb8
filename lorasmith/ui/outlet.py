"""A stream that never makes its writer wait: a run must not stand still because nobody reads what is told of it."""

from __future__ import annotations

import os
import select
import sys
from collections import deque
from contextlib import suppress
from typing import TextIO

PIECE = 1000  # characters; a pipe that has room at all has room for 4096 bytes
MAX_PIECES = 2000


class NonBlockingWriter:
    """What `out` does not take now (a pager that is not scrolled, a terminal held by Ctrl+S) is kept, and offered again
    at each call; of more than some 2000 lines the oldest are given up.

    Where the system cannot tell whether a stream takes anything (Windows) it is believed to.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._kept: deque[str] = deque(maxlen=MAX_PIECES)
        self.encoding = getattr(out, "encoding", None) or "utf-8"
        self._terminal = _own_handle(out)
        self._rest = b""  # of a piece that the terminal took a part of

    @property
    def is_behind(self) -> bool:
        """Whether something waits to be taken."""
        return bool(self._kept or self._rest)

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
        if self._terminal is not None:
            self._offer(self._terminal)
            return
        while self._kept and self._takes():
            self._out.write(self._kept.popleft())
            self._out.flush()

    def _offer(self, terminal: int) -> None:
        """To a terminal, which may have room for a part of a piece only."""
        self._out.flush()  # what others have printed comes first
        while self.is_behind:
            if not self._rest:
                self._rest = self._kept.popleft().encode(self.encoding, getattr(self._out, "errors", None) or "strict")
            try:
                self._rest = self._rest[os.write(terminal, self._rest) :]
            except BlockingIOError:
                return

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


def _own_handle(out: TextIO) -> int | None:
    """The terminal behind `out`, opened anew so that writing to it never waits: a terminal with room for a byte says
    that it takes something. None where there is none."""
    if sys.platform != "win32":
        with suppress(OSError, AttributeError):
            return os.open(os.ttyname(out.fileno()), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    return None
