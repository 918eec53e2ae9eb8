"""A stream that never blocks its writer: a run must not wait for the reader of its output."""

from __future__ import annotations

import os
import select
import sys
from collections import deque
from contextlib import suppress
from typing import TextIO

PIECE = 1000  # characters; a pipe that takes anything takes 4096 bytes
MAX_PIECES = 2000


class NonBlockingWriter:
    """Keeps what `out` does not take now (a pager that is not scrolled, a terminal held by Ctrl+S) and offers it again
    at each call. Beyond about 2000 lines the oldest are dropped.

    On Windows, which cannot report whether a stream is ready, every stream counts as ready.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._kept: deque[str] = deque(maxlen=MAX_PIECES)
        self.encoding = getattr(out, "encoding", None) or "utf-8"
        self._terminal = _own_handle(out)
        self._rest = b""  # rest of a piece that the terminal took in part

    @property
    def is_behind(self) -> bool:
        """Whether text waits to be written."""
        return bool(self._kept or self._rest)

    def isatty(self) -> bool:
        return self._out.isatty()

    def write(self, text: str) -> int:
        self._kept.extend(text[at : at + PIECE] for at in range(0, len(text), PIECE))
        return len(text)

    def flush(self) -> None:
        """Writes what `out` takes now.

        Raises:
            OSError: the stream is closed.
        """
        if self._terminal is not None:
            self._offer(self._terminal)
            return
        while self._kept and self._takes():
            self._out.write(self._kept.popleft())
            self._out.flush()

    def _offer(self, terminal: int) -> None:
        """Writes to a terminal, which may take only a part of a piece."""
        self._out.flush()  # text printed by other code comes first
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
        except (OSError, AttributeError):  # a stream in memory
            return True
        # poll: select cannot ask about handles above 1023
        asked = select.poll()
        asked.register(handle, select.POLLOUT)
        return bool(asked.poll(0))


def _own_handle(out: TextIO) -> int | None:
    """A second, non-blocking handle of the terminal behind `out`; None if `out` is no terminal. Needed because a
    terminal that can take a single byte already reports itself as ready."""
    if sys.platform != "win32":
        with suppress(OSError, AttributeError):
            return os.open(os.ttyname(out.fileno()), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    return None
