"""`lorasmith logs`, `python check_training_logs.py`: shows what the last run did. Only reads, also while it trains.

The exit status is 0 whatever the run did, also where there is no run yet (then it shows how to start one); 2 for bad
arguments.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorasmith.errors import ExitCode
from lorasmith.runs.layout import RunFolder
from lorasmith.ui.encodings import shows_everything
from lorasmith.ui.switches import parse_switches, switches_help
from lorasmith.ui.translator import Translator
from lorasmith.ui.which_run import how_to_make_some, output_named, run_named, train_command

if TYPE_CHECKING:
    from rich.console import Console

    from lorasmith.reading.status import RunStatus

SWITCHES = {"follow": "", "json": "", "menu": "", "output": "FOLDER", "lang": "en|zh-TW", "help": ""}
REDRAW_SECONDS = 1.0
LINE_SECONDS = 10.0  # between two lines where nothing can be redrawn

Wait = Callable[[float], None]


def logs(arguments: list[str], words: Translator, command: str, *, wait: Wait = time.sleep) -> int:
    """Shows the last run and returns the exit status.

    Raises:
        ConfigError: bad arguments.
    """
    given = parse_switches(arguments, SWITCHES)
    if "help" in given:
        print(switches_help(words, command, "logs", SWITCHES))
        return int(ExitCode.FINISHED)
    here = Path.cwd()
    view = _LogView(run_named(given.get("output"), here), given.get("output"), here, words, command, wait)
    if "json" in given:
        status = view.until_the_end() if "follow" in given else view.status()
        from lorasmith.ui.logs_json import as_json

        print(json.dumps(as_json(status), ensure_ascii=not shows_everything(sys.stdout), indent=1))
    elif "menu" in given and can_ask():
        _menu(view, words, command, given)
    elif "follow" in given:
        view.follow()
    else:
        view.show()
    return int(ExitCode.FINISHED)


def _menu(view: _LogView, words: Translator, command: str, given: dict[str, str]) -> None:
    from lorasmith.ui.logs_menu import menu
    from lorasmith.ui.tensorboard import tensorboard

    same = [f"--{name}={given[name]}" for name in ("output", "lang") if name in given]
    menu(words, show=view.show, tensorboard=lambda: tensorboard(same, words, command))


def can_ask() -> bool:
    """Whether input and output are a terminal, so that a question has an answer."""
    return sys.stdin.isatty() and sys.stdout.isatty()


class _LogView:
    """The view of a run, shown once or again and again."""

    def __init__(
        self, run: RunFolder, output: str | None, here: Path, words: Translator, command: str, wait: Wait
    ) -> None:
        from lorasmith.reading.reader import RunReader

        self._here = here
        self._words = words
        self._train_command = train_command(command, output_named(output, here))
        self._wait = wait
        self._reader = RunReader(run)

    def status(self) -> RunStatus:
        """Reads the status now."""
        from lorasmith.reading.status import read_status

        return read_status(self._reader, now=time.time())

    def show(self) -> None:
        self._print(_console(), self.status())

    def until_the_end(self) -> RunStatus:
        """Waits until nothing goes on any more; the status then."""
        status = self.status()
        while status.is_going_on:
            self._wait(REDRAW_SECONDS)
            status = self.status()
        return status

    def follow(self) -> None:
        """Shows the run until it ends or the person leaves with Ctrl+C, then its status at that moment."""
        console = _console()
        try:
            if console.is_terminal and not console.is_dumb_terminal:
                self._follow_on_screen(console)
            else:
                self._follow_as_lines()
        except KeyboardInterrupt:
            pass  # the way to leave
        self._print(console, self.status())

    def _follow_on_screen(self, console: Console) -> None:
        """Draws the whole screen anew each second; a window that is too small shows the top."""
        from rich.live import Live

        status = self.status()
        if not status.is_going_on:
            return
        with Live(self._view(status), console=console, screen=True, auto_refresh=False) as live:
            while status.is_going_on:
                live.update(self._view(status), refresh=True)
                self._wait(REDRAW_SECONDS)
                status = self.status()

    def _follow_as_lines(self) -> None:
        """Prints a line now and then, for a file or a pipe."""
        from lorasmith.ui.viewer import progress_line

        status = self.status()
        printed, printed_at = "", -LINE_SECONDS
        while status.is_going_on:
            line = progress_line(self._words, status)
            if line != printed and time.monotonic() - printed_at >= LINE_SECONDS:
                print(line, flush=True)
                printed, printed_at = line, time.monotonic()
            self._wait(REDRAW_SECONDS)
            status = self.status()

    def _view(self, status: RunStatus) -> Any:
        from lorasmith.ui.viewer import RunView

        return RunView(self._words, status, train_command=self._train_command, here=self._here)

    def _print(self, console: Console, status: RunStatus) -> None:
        if status.standing == "none":
            print(*how_to_make_some(self._words, status.run, train=self._train_command), sep="\n")
            return
        console.print(self._view(status))


def _console() -> Console:
    """A console as wide as the window; 80 cells where there is none, or what COLUMNS says."""
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 80
    return Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)
