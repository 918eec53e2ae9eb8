"""`lorasmith logs`, `python check_training_logs.py`: what the last run did. Reads only, also while that run trains.

Exit status 0 whatever the run did, also where there is none yet (it then says how to make one); 2 for bad input.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorasmith.errors import ExitCode
from lorasmith.run_folder import RunFolder, run_at
from lorasmith.ui.layout import two_columns, wrapped
from lorasmith.ui.switches import parse_switches
from lorasmith.ui.words import FOLDER_SETTINGS, Words

if TYPE_CHECKING:
    from rich.console import Console

    from lorasmith.ui.last_run import LastRun
    from lorasmith.ui.run_reading import RunReader

SWITCHES = {"follow": "", "json": "", "menu": "", "output": "FOLDER", "lang": "en|zh-TW", "help": ""}
DEFAULT_OUTPUT = "lora_output"
REDRAW_SECONDS = 1.0
PLAIN_SECONDS = 10.0  # between two lines where nothing can be redrawn
LEFT = 24

Wait = Callable[[float], None]


def logs(arguments: list[str], words: Words, command: str, *, wait: Wait = time.sleep) -> int:
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

        print(json.dumps(as_json(facts), ensure_ascii=False, indent=1))
    elif "menu" in given and can_ask():
        _menu(watched, words, command, given)
    elif "follow" in given:
        watched.follow()
    else:
        watched.show()
    return int(ExitCode.FINISHED)


def _menu(watched: _Watched, words: Words, command: str, given: dict[str, str]) -> None:
    from lorasmith.ui.logs_menu import menu
    from lorasmith.ui.tensorboard import tensorboard

    same = [f"--{name}={given[name]}" for name in ("output", "lang") if name in given]
    menu(words, show=watched.show, tensorboard=lambda: tensorboard(same, words, command))


def can_ask() -> bool:
    """Whether somebody sits at both ends."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def run_named(output: str | None, here: Path) -> RunFolder:
    """The run that --output names, else the one that the folder's settings name where it is there, else the usual."""
    if output is not None:
        return run_at(here, output)
    try:
        named = tomllib.loads((here / FOLDER_SETTINGS).read_bytes().decode("utf-8-sig")).get("output")
    except (OSError, ValueError):
        named = None
    if isinstance(named, str) and named and (run := run_at(here, named)).root.is_dir():
        return run
    return RunFolder(here / DEFAULT_OUTPUT)


def train_command(command: str, output: str | None) -> str:
    """How to train from where `command` was typed, about the same run."""
    *program, last = command.split()
    train = [*program, "train_lora.py" if last.endswith(".py") else "train"]
    return shlex.join(train if output is None else [*train, "--output", output])


def how_to_make_some(words: Words, run: RunFolder, *, train: str) -> list[str]:
    """What is said where there is nothing to show yet."""
    return [words.say("logs.nothing", folder=run.root), words.say("logs.make_some", command=train)]


def switches_help(words: Words, command: str, about: str, switches: dict[str, str]) -> str:
    """The page of a command with few options."""
    width = min(shutil.get_terminal_size().columns, 120)
    usage = words.say("help.usage", command=command, rest=words.say("logs.help.rest"))
    rows = [(f"--{name} {value}".rstrip(), words.say(f"logs.help.{name}")) for name, value in switches.items()]
    return "\n".join(
        [usage, "", *wrapped(words.say(f"logs.help.{about}"), width), "", *two_columns(rows, left=LEFT, width=width)]
    )


class _Watched:
    """One run, looked at once or again and again."""

    def __init__(self, run: RunFolder, output: str | None, here: Path, words: Words, command: str, wait: Wait) -> None:
        from lorasmith.ui.run_reading import RunReader

        self._run = run
        self._here = here
        self._words = words
        self._train_command = train_command(command, output)
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
