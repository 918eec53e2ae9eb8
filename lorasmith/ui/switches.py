"""Parses the few options of the commands other than `train`, which have no config model.

Imports nothing slow, so that `--help` answers at once.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence

from lorasmith.errors import ConfigError
from lorasmith.languages import LANGUAGES, language_named
from lorasmith.option_names import closest
from lorasmith.ui.layout import two_columns, wrapped
from lorasmith.ui.translator import Translator

LEFT = 24


def parse_switches(
    arguments: Sequence[str], known: Mapping[str, str], *, files: list[str] | None = None
) -> dict[str, str]:
    """The given options by name; a flag has the value "yes", and `-h` is `help`.

    Args:
        known: option -> the placeholder of its value, "" for a flag.
        files: receives the words that are no options; None where the command takes none.

    Raises:
        ConfigError: an option that is unknown, without its value or with one it does not take, twice, or a stray word.
    """
    given: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, has_value, value = ("help", "", "") if word == "-h" else word.removeprefix("--").partition("=")
        if not word.startswith("-") or word == "-":
            if files is not None:
                files.append(word)
                continue
            raise ConfigError("argument_unexpected", argument=word)
        if name not in known or not (word.startswith("--") or word == "-h"):
            raise _unknown(word.split("=")[0], known)
        if known[name] and name in given:
            raise ConfigError("switch_repeated", option=name)
        if not known[name]:
            if has_value:
                raise ConfigError("option_flag", option=name)
            given[name] = "yes"
            continue
        if not has_value:
            if not rest or rest[0].startswith("--"):
                raise ConfigError("option_without_value", option=name, expected=known[name])
            value = rest.pop(0)
        given[name] = value
    _refuse_language(given.get("lang"))
    return given


def _unknown(name: str, known: Mapping[str, str]) -> ConfigError:
    nearest = closest(name, [f"--{option}" for option in known])
    if not nearest:
        return ConfigError("switch_unrecognised", option=name)
    return ConfigError("option_unknown", option=name, nearest=nearest)


def switches_help(words: Translator, command: str, about: str, switches: dict[str, str], *, files: str = "") -> str:
    """The page of a command with few options; `files`: what stands for its files, for a tool for LoRA files."""
    width = min(shutil.get_terminal_size().columns, 120)
    rest = f"{files} {words.say('logs.help.rest')}".strip()
    usage = words.say("help.usage", command=command, rest=rest)
    rows = [
        (f"--{name} {value}".rstrip(), _sentence(words, about if files else "", name))
        for name, value in switches.items()
    ]
    return "\n".join(
        [usage, "", *wrapped(words.say(f"logs.help.{about}"), width), "", *two_columns(rows, left=LEFT, width=width)]
    )


def _sentence(words: Translator, tool: str, name: str) -> str:
    """What an option does, in the words of the tool for LoRA files where it has its own."""
    if tool == "extract" and words.knows(f"tools.extract_help.{name}"):
        return words.say(f"tools.extract_help.{name}")
    if tool and words.knows(f"tools.help.{name}"):
        return words.say(f"tools.help.{name}")
    return words.say(f"logs.help.{name}")


def _refuse_language(lang: str | None) -> None:
    if lang is not None and not language_named(lang):
        raise ConfigError("config_value", option="lang", value=repr(lang), expected=", ".join(LANGUAGES))
