"""`lorasmith train --help`: the options of the model by section, with their defaults."""

from __future__ import annotations

import shutil
from typing import Any

from lorasmith.config import Option, options
from lorasmith.ui.expected import is_flag, metavar
from lorasmith.ui.layout import two_columns, wrapped
from lorasmith.ui.options import COMMAND_OPTIONS
from lorasmith.ui.translator import Translator

LEFT = 34


def train_help(words: Translator, command: str) -> str:
    """The whole page, as wide as the terminal."""
    width = min(shutil.get_terminal_size().columns, 120)
    rest = words.say("help.rest")
    lines = [words.say("help.usage", command=command, rest=rest), "", *wrapped(words.say("help.train"), width), ""]
    rows = [(_term(name, value), words.say(f"option.{name}")) for name, value in COMMAND_OPTIONS.items()]
    lines += [words.say("help.section.start"), *two_columns(rows, left=LEFT, width=width)]
    for section in dict.fromkeys(one.section for one in options().values()):
        rows = [(term(one), meaning(words, one)) for one in options().values() if one.section == section]
        lines += ["", words.say(f"help.section.{section or 'run'}"), *two_columns(rows, left=LEFT, width=width)]
    return "\n".join([*lines, "", *wrapped(words.say("help.files"), width)])


def term(option: Option) -> str:
    """`--rank N`."""
    return _term(option.name, "" if is_flag(option) else metavar(option))


def meaning(words: Translator, option: Option) -> str:
    """What it does, and its default where a number or word says it."""
    text = words.say(f"option.{option.key}")
    default = shown_default(option)
    return text if not default else f"{text} {words.say('help.default', value=default)}"


def shown_default(option: Option) -> str:
    """The default as one would type it; "" where there is none to type."""
    value: Any = option.field.default
    if value in (None, "", False, {}, ()) and not (value == 0 and not isinstance(value, bool)):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _term(name: str, value: str) -> str:
    return f"--{name} {value}".rstrip()
