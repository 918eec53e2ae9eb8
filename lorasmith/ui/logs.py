"""`lorasmith logs`, `python check_training_logs.py`: what the last run did. Reads only, also while that run trains.

Exit status 0 whatever the run did, also where there is none yet (it then says how to make one); 2 for bad input.
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

    from lorasmith.ui.last_run import LastRun
    from lorasmith.ui.run_reading import RunReader

SWITCHES = {"follow": "", "json": "", "menu": "", "output": "FOLDER", "lang": "en|zh-TW", "help": ""}
REDRAW_SECONDS = 1.0
PLAIN_SECONDS = 10.0  # between two lines where nothing can be redrawn

Wait = Callable[[float], None]


def logs(arguments: list[str], words: Translator, command: str, *, wait: Wait = time.sleep) -> int:
    """Shows the last run; the exit status.

    Raises:
        ConfigError: bad arguments.
    """
    given = parse_switches(arguments, SWITCHES)
    if "help" in given:
        print(switches_help(words, command, "logs", SWITCHES))
        return int(ExitCode.FINISHED)
    here = Path.cwd()
    watched = _Watched(run_named(given.get("output"), here), given.get("output"), here, words, command, wait)
    if "json" in given:
        facts = watched.until_the_end() if "follow" in given else watched.look()
        from lorasmith.ui.logs_json import as_json

        print(json.dumps(as_json(facts), ensure_ascii=not shows_everything(sys.stdout), indent=1))
    elif "menu" in given and can_ask():
        _menu(watched, words, command, given)
    elif "follow" in given:
        watched.follow()
    else:
        watched.show()
    return int(ExitCode.FINISHED)


def _menu(watched: _Watched, words: Translator, command: str, given: dict[str, str]) -> None:
    from lorasmith.ui.logs_menu import menu
    from lorasmith.ui.tensorboard import tensorboard

    same = [f"--{name}={given[name]}" for name in ("output", "lang") if name in given]
    menu(words, show=watched.show, tensorboard=lambda: tensorboard(same, words, command))


def can_ask() -> bool:
    """Whether somebody sits at both ends."""
    return sys.stdin.isatty() and sys.stdout.isatty()


class _Watched:
    """One run, looked at once or again and again."""

    def __init__(
        self, run: RunFolder, output: str | None, here: Path, words: Translator, command: str, wait: Wait
    ) -> None:
        from lorasmith.ui.run_reading import RunReader

        self._run = run
        self._here = here
        self._words = words
        self._train_command = train_command(command, output_named(output, here))
        self._wait = wait
        self._reader: RunReader = RunReader(run.ledger)

    def look(self) -> LastRun:
        from lorasmith.ui.last_run import look

        return look(self._run, self._reader, now=time.time())

    def show(self) -> None:
        self._print(_console(), self.look())

    def until_the_end(self) -> LastRun:
        """The facts once nothing goes on any more."""
        facts = self.look()
        while facts.is_going_on:
            self._wait(REDRAW_SECONDS)
            facts = self.look()
        return facts

    def follow(self) -> None:
        """Shows the run until it ends or the person has seen enough; what is left on the screen is how it stood."""
        console = _console()
        try:
            if console.is_terminal and not console.is_dumb_terminal:
                self._follow_on(console)
            else:
                self._follow_plainly()
        except KeyboardInterrupt:
            pass  # that is how one leaves
        self._print(console, self.look())

    def _follow_on(self, console: Console) -> None:
        """The whole screen, drawn anew each second; a window that is too small shows the top."""
        from rich.live import Live

        facts = self.look()
        if not facts.is_going_on:
            return
        with Live(self._view(facts), console=console, screen=True, auto_refresh=False) as live:
            while facts.is_going_on:
                live.update(self._view(facts), refresh=True)
                self._wait(REDRAW_SECONDS)
                facts = self.look()

    def _follow_plainly(self) -> None:
        """A file or a pipe: a line now and then."""
        from lorasmith.ui.viewer import progress_line

        facts = self.look()
        said, said_at = "", -PLAIN_SECONDS
        while facts.is_going_on:
            line = progress_line(self._words, facts)
            if line != said and time.monotonic() - said_at >= PLAIN_SECONDS:
                print(line, flush=True)
                said, said_at = line, time.monotonic()
            self._wait(REDRAW_SECONDS)
            facts = self.look()

    def _view(self, facts: LastRun) -> Any:
        from lorasmith.ui.viewer import RunView

        return RunView(self._words, facts, train_command=self._train_command, here=self._here)

    def _print(self, console: Console, facts: LastRun) -> None:
        if facts.standing == "none":
            print(*how_to_make_some(self._words, self._run, train=self._train_command), sep="\n")
            return
        console.print(self._view(facts))


def _console() -> Console:
    """As wide as the window; 80 where there is none, or what COLUMNS says."""
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 80
    return Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)
