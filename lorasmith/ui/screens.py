"""Output of lines: a terminal with a status line that is redrawn, or a file or pipe that only grows.

Independent of sentences and events.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Literal, Protocol, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from lorasmith.ui.non_blocking import NonBlockingWriter

Mood = Literal["", "good", "warning", "bad", "quiet"]
Compose = Callable[[int | None, bool], str]  # (width in cells, None in a file; whether only ASCII shows) -> one line

STYLES: dict[Mood, str] = {"": "", "good": "green", "warning": "yellow", "bad": "red", "quiet": "dim"}
REFRESH_SECONDS = 0.1
LINE_SECONDS = 10.0


class Screen(Protocol):
    """The output of a run."""

    def line(self, text: str, mood: Mood = "") -> None:
        """Prints a permanent line."""

    def status(self, compose: Compose, share: float) -> None:
        """Shows a status line, which the next status replaces; `share` of the work is done."""

    def tick(self) -> None:
        """Redraws the status, as time has passed."""

    def close(self) -> None:
        """Removes the status line; further lines may follow."""

    @property
    def is_behind(self) -> bool:
        """Whether lines wait for their reader; `tick` offers them again."""


class PlainScreen:
    """A file or pipe: lines only, no carriage return. A status is printed every tenth of the work or every 10 s."""

    def __init__(self, out: TextIO, *, now: Callable[[], float] = time.monotonic) -> None:
        self._out = NonBlockingWriter(out)
        self._now = now
        self._told_at = now()
        self._told_tenth = 0

    def line(self, text: str, mood: Mood = "") -> None:
        del mood  # no colours in a file
        self._out.write(text + "\n")
        self._out.flush()

    def status(self, compose: Compose, share: float) -> None:
        tenth = int(share * 10 + 1e-9)
        if tenth == self._told_tenth and self._now() - self._told_at < LINE_SECONDS:
            return
        self._told_tenth, self._told_at = tenth, self._now()
        self.line(compose(None, True))

    def tick(self) -> None:
        self._out.flush()

    def close(self) -> None:
        """Does nothing: there is no status line."""

    @property
    def is_behind(self) -> bool:
        return self._out.is_behind


class LiveScreen:
    """A terminal: the status stays at the bottom, lines are printed above it. Honours NO_COLOR."""

    def __init__(self, out: TextIO, *, now: Callable[[], float] = time.monotonic) -> None:
        self._out = NonBlockingWriter(out)
        file = cast(TextIO, self._out)
        self._console = Console(file=file, highlight=False, markup=False, emoji=False, force_terminal=True)
        self._live: Live | None = None
        self._moving = _MovingLine()
        self._now = now
        self._drawn_at = 0.0
        self._is_stale = False

    def line(self, text: str, mood: Mood = "") -> None:
        self._console.print(Text(text, style=STYLES[mood]), soft_wrap=True)

    def status(self, compose: Compose, share: float) -> None:
        del share  # the status line shows it
        self._moving.compose = compose
        self._is_stale = True
        if self._live is None:
            self._live = Live(self._moving, console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self.tick()

    def tick(self) -> None:
        self._out.flush()
        if self._live is None or self._out.is_behind:  # an old status need not be shown
            return
        if self._is_stale and self._now() - self._drawn_at >= REFRESH_SECONDS:
            self._is_stale, self._drawn_at = False, self._now()
            self._live.refresh()

    def close(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    @property
    def is_behind(self) -> bool:
        return self._out.is_behind


class LastingScreen:
    """Wraps a screen whose window or reader may disappear without disturbing the run."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._is_gone = False

    def line(self, text: str, mood: Mood = "") -> None:
        self._unless_gone(lambda: self._screen.line(text, mood))

    def status(self, compose: Compose, share: float) -> None:
        self._unless_gone(lambda: self._screen.status(compose, share))

    def tick(self) -> None:
        self._unless_gone(self._screen.tick)

    def close(self) -> None:
        self._unless_gone(self._screen.close)

    @property
    def is_behind(self) -> bool:
        return not self._is_gone and self._screen.is_behind

    def _unless_gone(self, show: Callable[[], None]) -> None:
        if self._is_gone:
            return
        try:
            show()
        except OSError:
            self._is_gone = True


def open_screen(out: TextIO, environment: Mapping[str, str] = os.environ) -> Screen:
    """The screen for `out`: a terminal, or a file or pipe."""
    is_terminal = out.isatty() and environment.get("TERM", "") not in ("dumb", "unknown")
    return LastingScreen(LiveScreen(out) if is_terminal else PlainScreen(out))


class _MovingLine:
    """Computes its text at each drawing, so that it fits a window whose size has changed."""

    compose: Compose = staticmethod(lambda _width, _only_ascii: "")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self.compose(options.max_width, options.ascii_only), no_wrap=True, overflow="crop")
