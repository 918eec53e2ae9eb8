"""Finds the run folder when --output is not given, and writes command lines as a user would type them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from lorasmith.runs.durable import on_windows
from lorasmith.runs.layout import RunFolder, run_at
from lorasmith.ui.folder_settings import folder_text
from lorasmith.ui.translator import Translator

DEFAULT_OUTPUT = "lora_output"


def run_named(output: str | None, here: Path) -> RunFolder:
    """The run that --output names, else the run that the folder's settings name if it exists, else the default."""
    named = output_named(output, here)
    return RunFolder(here / DEFAULT_OUTPUT) if named is None else run_at(here, named)


def output_named(output: str | None, here: Path) -> str | None:
    """The value of --output that leads to that run; None where none is needed."""
    if output is None:
        configured = folder_text(here, "output")
        output = configured if configured and run_at(here, configured).root.is_dir() else None
    inside = _newest_run_in(run_at(here, output or DEFAULT_OUTPUT))
    return output if inside is None else str(Path(output or DEFAULT_OUTPUT) / inside)


def _newest_run_in(folder: RunFolder) -> str | None:
    """The name of the newest run that `train-network` has put into a folder that is no run itself."""
    if folder.ledger.exists() or not folder.root.is_dir():
        return None
    from lorasmith.runs.naming import RUN_SUFFIX  # imports the config: a missing folder is reported without it

    runs = [RunFolder(path) for path in folder.root.iterdir() if path.name.endswith(RUN_SUFFIX)]
    found = [run for run in runs if run.ledger.exists()]
    return max(found, key=lambda run: run.ledger.stat().st_mtime).root.name if found else None


def train_command(command: str, output: str | None) -> str:
    """The command that trains the same run, of the same kind as the typed `command`."""
    *program, last = command.split()
    train = [*program, "train_lora.py" if last.endswith(".py") else "train"]
    return typed(train if output is None else [*train, "--output", output])


def how_to_make_some(words: Translator, run: RunFolder, *, train: str) -> list[str]:
    """The lines shown where there is no run yet."""
    return [words.say("logs.nothing", folder=run.root), words.say("logs.make_some", command=train)]


def typed(words: Sequence[str]) -> str:
    """A command line with the quotes that the system's shell needs: `cmd` and PowerShell have their own."""
    if not on_windows():
        return shlex.join(words)
    from subprocess import list2cmdline  # a slow import, needed on Windows only

    return list2cmdline(words)
