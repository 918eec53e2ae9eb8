"""Which run somebody means who has typed no more than a command, and what is said where there is none yet."""

from __future__ import annotations

import tomllib
from pathlib import Path

from lorasmith.runs.layout import RunFolder, run_at
from lorasmith.ui.commands import typed
from lorasmith.ui.translator import FOLDER_SETTINGS, Translator

DEFAULT_OUTPUT = "lora_output"


def run_named(output: str | None, here: Path) -> RunFolder:
    """The run that --output names, else the one that the folder's settings name where it is there, else the usual."""
    named = output_named(output, here)
    return RunFolder(here / DEFAULT_OUTPUT) if named is None else run_at(here, named)


def output_named(output: str | None, here: Path) -> str | None:
    """What has to be typed after --output to mean that run; None: nothing has to be."""
    if output is not None:
        return output
    try:
        named = tomllib.loads((here / FOLDER_SETTINGS).read_bytes().decode("utf-8-sig")).get("output")
    except (OSError, ValueError):
        return None
    return named if isinstance(named, str) and named and run_at(here, named).root.is_dir() else None


def train_command(command: str, output: str | None) -> str:
    """How to train from where `command` was typed, about the same run."""
    *program, last = command.split()
    train = [*program, "train_lora.py" if last.endswith(".py") else "train"]
    return typed(train if output is None else [*train, "--output", output])


def how_to_make_some(words: Translator, run: RunFolder, *, train: str) -> list[str]:
    """What is said where there is nothing to show yet."""
    return [words.say("logs.nothing", folder=run.root), words.say("logs.make_some", command=train)]
