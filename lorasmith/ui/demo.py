"""`lorasmith demo`: a whole training on the bundled base model and pictures, by the command `train` itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tomli_w

from lorasmith.config import Request
from lorasmith.config.run import validated
from lorasmith.errors import ConfigError, ExitCode
from lorasmith.messages import LANGUAGES
from lorasmith.runs.durable import map_disk_full, write_atomically
from lorasmith.runs.layout import RunFolder
from lorasmith.ui.folder_settings import FOLDER_SETTINGS, OF_DEMO
from lorasmith.ui.layout import two_columns
from lorasmith.ui.switches import parse_switches
from lorasmith.ui.train import Engine, train
from lorasmith.ui.translator import Translator
from lorasmith.ui.which_run import typed

DEFAULT_FOLDER = "lorasmith_demo"
DEFAULT_STEPS = 300
PROGRAM = "lorasmith"
NEXT = {
    "logs": ("logs",),
    "tensorboard": ("tensorboard",),
    "continue": ("train", "--continue", "--steps", "100"),
}
SWITCHES = {"steps": "N", "lang": "|".join(LANGUAGES), "help": ""}
TERM = 24


@dataclass(frozen=True, slots=True)
class _Arguments:
    folder: str
    steps: int
    lang: str
    wants_help: bool


def demo(arguments: list[str], words: Translator, command: str, *, engine: Engine | None = None) -> int:
    """Makes the folder, trains in it and shows what to try next; returns the exit status of the training.

    Raises:
        TrainerError: refused before anything was changed, but for the pictures of the demo.
    """
    asked = _parsed(arguments)
    if asked.wants_help:
        print(_help(words, command))
        return int(ExitCode.FINISHED)
    folder = (Path.cwd() / asked.folder).absolute()
    try:
        with map_disk_full(folder):
            _check_folder(folder, asked.folder)
            _prepare(folder, asked.lang)
    except OSError as error:
        raise ConfigError("demo_folder_impossible", folder=asked.folder, reason=str(error.strerror)) from error
    print(words.say("demo.begin", folder=str(folder)), flush=True)
    status = train(["--new", "--steps", str(asked.steps)], words, f"{PROGRAM} train", engine=engine, here=folder)
    if status == ExitCode.FINISHED:
        print("\n".join(_next(words, folder, asked.folder)))
    return status


def _prepare(folder: Path, lang: str) -> None:
    """Writes the settings, then the pictures: the settings mark the folder as the demo's if it is interrupted."""
    # imported late: a refused folder does not wait for PIL
    from lorasmith.demo.lesson import SETTINGS, draw_lesson

    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / FOLDER_SETTINGS
    if not settings.exists():
        language = {"lang": lang} if lang else {}
        write_atomically(settings, (OF_DEMO + tomli_w.dumps({**SETTINGS, **language})).encode())
    draw_lesson(folder / "lora_train_set")


def _next(words: Translator, folder: Path, folder_typed: str) -> list[str]:
    run = RunFolder(folder / Request().output)
    rows = [(" ".join([PROGRAM, *command]), words.say(f"demo.{key}")) for key, command in NEXT.items()]
    lines = ["", words.say("demo.lora", path=str(run.export("last"))), words.say("demo.next")]
    return [*lines, f"  {typed(['cd', folder_typed])}", *(f"  {left:<42}{right}" for left, right in rows)]


def _check_folder(folder: Path, folder_typed: str) -> None:
    """Refuses a folder with files of the user's.

    Raises:
        ConfigError: `demo_folder_taken`.
    """
    if not folder.exists():
        return
    settings = folder / FOLDER_SETTINGS
    is_ours = folder.is_dir() and settings.is_file() and settings.read_bytes().startswith(OF_DEMO.encode())
    is_free = folder.is_dir() and not any(folder.iterdir())
    if not (is_ours or is_free):
        raise ConfigError("demo_folder_taken", folder=folder_typed)


def _parsed(arguments: list[str]) -> _Arguments:
    """The arguments of `demo`.

    Raises:
        ConfigError: other arguments.
    """
    is_named = bool(arguments) and not arguments[0].startswith("-")
    folder = arguments[0] if is_named else DEFAULT_FOLDER
    given = parse_switches(arguments[1:] if is_named else arguments, SWITCHES)
    request = validated(Request, {"steps": given.get("steps", DEFAULT_STEPS), "lang": given.get("lang", "")})
    assert request.steps is not None
    return _Arguments(folder, request.steps, request.lang, "help" in given)


def _help(words: Translator, command: str) -> str:
    meanings = {
        "steps": words.say("demo.steps_help", default=DEFAULT_STEPS),
        "lang": words.say("option.lang"),
        "help": words.say("logs.help.help"),
    }
    rows = [(words.say("demo.folder"), words.say("demo.folder_help", default=DEFAULT_FOLDER))]
    rows += [(f"--{name} {SWITCHES[name]}".rstrip(), meaning) for name, meaning in meanings.items()]
    usage = words.say("help.usage", command=command, rest=words.say("demo.rest"))
    return "\n".join([usage, "", words.say("demo.about"), "", *two_columns(rows, left=TERM, width=100)])
