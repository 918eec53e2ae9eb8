"""`lorasmith convert`: makes new files from LoRA files. Overwrites nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from lorasmith.errors import ConfigError, ExitCode
from lorasmith.ui.render import shortened
from lorasmith.ui.switches import parse_switches, switches_help
from lorasmith.ui.translator import Translator

if TYPE_CHECKING:
    from lorasmith.lora_tools.convert import Style

PRECISION = "fp32|bf16|fp16"
CONVERT = {"to": "kohya|peft|diffusers", "precision": PRECISION, "lang": "en|zh-TW", "help": ""}


def convert(arguments: list[str], words: Translator, command: str) -> int:
    """Writes a LoRA under the names of another program; returns the exit status.

    Raises:
        ConfigError: bad arguments.
        InputError: the file cannot be converted, or the output exists.
    """
    files: list[str] = []
    given = parse_switches(arguments, CONVERT, files=files)
    if "help" in given:
        return _help(words, command, "convert", CONVERT)
    source, out = _files(files, command, 2)
    style = cast("Style", _choice(given, "to", CONVERT["to"]))
    precision = _choice(given, "precision", PRECISION, default="")
    from lorasmith.lora_tools.convert import convert as write_converted  # imports numpy

    made = write_converted(source, out, to=style, precision=precision)
    print(words.say("tools.written", path=shortened(made.path), layers=made.layers))
    if made.rounded:
        print(words.say("message.note", text=words.say("tools.rounded", count=made.rounded)))
    return int(ExitCode.FINISHED)


def _help(words: Translator, command: str, name: str, switches: dict[str, str]) -> int:
    print(switches_help(words, command, name, switches, files=words.say(f"tools.files_of.{name}")))
    return int(ExitCode.FINISHED)


def _files(files: list[str], command: str, count: Literal[2]) -> list[Path]:
    if len(files) != count:
        raise ConfigError("files_count", given=len(files), command=command)
    return [Path(name) for name in files]


def _choice(given: dict[str, str], option: str, choices: str, *, default: str | None = None) -> str:
    """The value of an option that takes one of `choices`; without a default it must be given."""
    if option not in given:
        if default is None:
            raise ConfigError("option_missing", option=option, expected=choices)
        return default
    if given[option] not in choices.split("|"):
        raise ConfigError("option_choice", option=option, value=given[option], expected=choices)
    return given[option]
