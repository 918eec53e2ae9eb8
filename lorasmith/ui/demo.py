"""`lorasmith demo`: the whole thing once, on the bundled base model and pictures. Knows no more of training than a
person who types `train`.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from lorasmith.config import options
from lorasmith.config.request import Request
from lorasmith.config.run import validated
from lorasmith.errors import ConfigError, ExitCode
from lorasmith.run_folder import RunFolder, no_space_named, write_atomically
from lorasmith.ui.layout import two_columns
from lorasmith.ui.train import Engine, train
from lorasmith.ui.words import FOLDER_SETTINGS, Words

DEFAULT_FOLDER = "lorasmith_demo"
DEFAULT_STEPS = 300
MARK = "# made by lorasmith demo\n"  # first line of its settings: a folder with it is ours to use again
TERM = 24


@dataclass(frozen=True, slots=True)
class _Asked:
    folder: str
    steps: int
    lang: str
    wants_help: bool


def demo(arguments: list[str], words: Words, command: str, *, engine: Engine | None = None) -> int:
    """Makes the folder, trains in it, and says what to try next; the exit status of the training.

    Raises:
        TrainerError: refused before anything was changed, but for the pictures of the demo.
    """
    asked = _parsed(arguments)
    if asked.wants_help:
        print(_help(words, command))
        return int(ExitCode.FINISHED)
    folder = (Path.cwd() / asked.folder).absolute()
    _check_folder(folder, asked.folder)
    # PIL, which those who are refused need not wait for
    from lorasmith.demo.lesson import SETTINGS, draw_lesson

    with no_space_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        draw_lesson(folder / "lora_train_set")
        settings = folder / FOLDER_SETTINGS
        if not settings.exists():
            language = {"lang": asked.lang} if asked.lang else {}
            write_atomically(settings, (MARK + tomli_w.dumps({**SETTINGS, **language})).encode())
    print(words.say("demo.begin", folder=str(folder)), flush=True)
    status = train(["--new", "--steps", str(asked.steps)], words, "lorasmith train", engine=engine, here=folder)
    if status == ExitCode.FINISHED:
        print("\n".join(_next(words, folder, asked.folder)))
    return status


def _next(words: Words, folder: Path, typed: str) -> list[str]:
    run = RunFolder(folder / Request().output)
    rows = [
        ("lorasmith logs", words.say("demo.logs")),
        ("lorasmith tensorboard", words.say("demo.tensorboard")),
        ("lorasmith train --continue --steps 100", words.say("demo.continue")),
    ]
    lines = ["", words.say("demo.lora", path=str(run.export("last"))), words.say("demo.next")]
    return [*lines, f"  cd {shlex.quote(typed)}", *(f"  {left:<42}{right}" for left, right in rows)]


def _check_folder(folder: Path, typed: str) -> None:
    """A folder of somebody's own is not for the demo.

    Raises:
        ConfigError: `demo_folder_taken`.
    """
    if not folder.exists():
        return
    settings = folder / FOLDER_SETTINGS
    is_ours = folder.is_dir() and settings.is_file() and settings.read_text(encoding="utf-8").startswith(MARK)
    is_free = folder.is_dir() and not any(folder.iterdir())
    if not (is_ours or is_free):
        raise ConfigError("demo_folder_taken", folder=typed)


def _parsed(arguments: list[str]) -> _Asked:
    """Raises ConfigError: not a command line of `demo`."""
    folder, values = "", {"steps": str(DEFAULT_STEPS), "lang": ""}
    rest = list(arguments)
    while rest:
        word, is_joined, value = rest.pop(0).partition("=")
        if word in ("-h", "--help"):
            return _Asked("", 0, "", True)
        if word.removeprefix("--") in values and word.startswith("--"):
            if not is_joined and (not rest or rest[0].startswith("--")):
                raise ConfigError("option_without_value", option=word.removeprefix("--"))
            values[word.removeprefix("--")] = value if is_joined else rest.pop(0)
        elif word.startswith("-"):
            raise ConfigError("option_unknown", option=word, nearest="--steps")
        elif folder:
            raise ConfigError("argument_unexpected", argument=word)
        else:
            folder = word + is_joined + value
    request = validated(Request, {"steps": values["steps"], "lang": values["lang"]})
    assert request.steps is not None
    return _Asked(folder or DEFAULT_FOLDER, request.steps, request.lang, False)


def _help(words: Words, command: str) -> str:
    known = options()
    rows = [
        (words.say("demo.folder"), words.say("demo.folder_help", default=DEFAULT_FOLDER)),
        ("--steps N", words.say("demo.steps_help", default=DEFAULT_STEPS)),
        ("--lang en|zh-TW", words.say(f"option.{known['lang'].key}")),
    ]
    usage = words.say("help.usage", command=command, rest=words.say("demo.rest"))
    return "\n".join([usage, "", words.say("demo.about"), "", *two_columns(rows, left=TERM, width=100)])
