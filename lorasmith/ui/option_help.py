"""The options of `train` in words: what each takes, the pages of --help and --help-all, and docs/options.md.

Everything is read off the config model; no option is known here by name. The page of the documentation is made by
`python -m lorasmith.ui.option_help > docs/options.md`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from typing import Any

import annotated_types as limits

from lorasmith.config import Option, options
from lorasmith.messages import LANGUAGES
from lorasmith.ui.layout import two_columns, wrapped
from lorasmith.ui.options import COMMAND_OPTIONS, option_names
from lorasmith.ui.translator import Translator

LEFT = {"help": 28, "help-all": 34}  # cells of the column of names
MAX_WIDTH = 120  # cells
KINDS = {int: "integer", float: "number", str: "text", bool: "flag", dict: "pairs"}
METAVARS = {int: "N", float: "X", str: "TEXT", bool: "", dict: "K=V"}
NAMES = {"path": "PATH", "file_name": "NAME"}
LIMITS = {
    limits.Ge: ("at_least", "ge"),
    limits.Gt: ("more_than", "gt"),
    limits.Le: ("at_most", "le"),
    limits.Lt: ("less_than", "lt"),
    limits.MultipleOf: ("multiple_of", "multiple_of"),
}
"""Class of a limit -> its sentence, and the attribute that holds the value."""


def train_help(words: Translator, command: str, *, shows_all: bool = False) -> str:
    """The page of --help (the common options) or of --help-all, as wide as the terminal."""
    width = min(shutil.get_terminal_size().columns, MAX_WIDTH)
    left = LEFT["help-all" if shows_all else "help"]
    usage = words.say("help.usage", command=command, rest=words.say("help.rest"))
    lines = [usage, "", *wrapped(words.say("help.train"), width)]
    for title, rows in _groups(words, shows_all=shows_all).items():
        lines += ["", title, *two_columns(rows, left=left, width=width)]
    if not shows_all:
        lines += ["", *wrapped(words.say("help.all", command=command, count=len(option_names())), width)]
    return "\n".join([*lines, "", *wrapped(words.say("help.files"), width)])


def _groups(words: Translator, *, shows_all: bool) -> dict[str, list[tuple[str, str]]]:
    """Rows of a term and its meaning by title; sections with the same title are one group."""
    groups: dict[str, list[tuple[str, str]]] = {words.say("help.section.request"): []}
    for command_option in COMMAND_OPTIONS:
        if shows_all or command_option.common:
            name, value = command_option.name, command_option.value
            groups[words.say("help.section.request")].append((_term(name, value), words.say(f"option.{name}")))
    for option in options().values():
        if shows_all or option.facts.common:
            title = words.say(f"help.section.{option.section or 'run'}")
            groups.setdefault(title, []).append((term(option), meaning(words, option)))
    return groups


def term(option: Option) -> str:
    """The option with what stands for its value: `--rank N`."""
    return _term(option.name, metavar(option))


def metavar(option: Option) -> str:
    """The placeholder of an option's value in the help; "" for a flag."""
    if option.facts.holds:
        return NAMES[option.facts.holds]
    first = option.items if option.kinds == [tuple] else option.kinds[0]
    if isinstance(first, tuple):
        return "|".join(str(choice) for choice in first if choice)
    choices = [str(choice) for kind in option.kinds[1:] if isinstance(kind, tuple) for choice in kind]
    return "|".join([METAVARS[first], *choices])


def meaning(words: Translator, option: Option) -> str:
    """The sentence about an option, with its default if that can be typed."""
    text = words.say(f"option.{option.key}")
    default = shown_default(option)
    return text if not default else f"{text} {words.say('help.default', value=default)}"


def shown_default(option: Option) -> str:
    """The default as it would be typed; "" where there is none to type."""
    value: Any = option.field.default
    if value in (None, "", False, {}, ()) and not (value == 0 and not isinstance(value, bool)):
        return ""
    if isinstance(value, bool):
        return "true"
    return f"{value:g}" if isinstance(value, float) else str(value)


def expected(words: Translator, name: str) -> str:
    """The values that the option `name` takes, in words; "" where there is no such option."""
    option = options().get(name.replace("-", "_"))
    return "" if option is None else expectation(words, option)


def expectation(words: Translator, option: Option) -> str:
    """Type and range of an option in words, or its own sentence if its field has a validator."""
    if words.knows(f"expected.of.{option.key}"):
        return words.say(f"expected.of.{option.key}")
    parts = []
    for kind in option.kinds:
        if isinstance(kind, tuple):
            parts.append(words.say("expected.one_of", choices=", ".join(str(choice) for choice in kind if choice)))
        else:
            parts.append(words.say(f"expected.{KINDS[option.items if kind is tuple else kind]}"))
    text = words.say("expected.or").join(parts)
    for limit in option.field.metadata:
        if type(limit) in LIMITS:
            sentence, attribute = LIMITS[type(limit)]
            text += words.say("expected.and") + words.say(f"expected.{sentence}", limit=getattr(limit, attribute))
    return text


def page() -> str:
    """docs/options.md: every option of `train` in a table, in each language."""
    return "\n".join(_table(Translator(language)) for language in LANGUAGES)


def _table(words: Translator) -> str:
    say = words.say
    titles = [say(f"options_page.{column}") for column in ("option", "default", "takes", "changes", "meaning")]
    rows = [[f"`{_term(own.name, own.value)}`", "", "", "", say(f"option.{own.name}")] for own in COMMAND_OPTIONS]
    for option in options().values():
        default = shown_default(option)
        changes = say(f"options_page.effect.{option.facts.effect}")
        shown = f"`{default}`" if default else ""
        rows.append([f"`{term(option)}`", shown, expectation(words, option), changes, say(f"option.{option.key}")])
    lines = [f"# {say('options_page.title')}", "", say("options_page.intro"), ""]
    return "\n".join([*lines, _row(titles), _row(["---"] * len(titles)), *map(_row, rows), ""])


def _row(values: Iterable[str]) -> str:
    """A row of a Markdown table; a pipe within a cell would end it."""
    escaped = [value.replace("|", r"\|") for value in values]
    return f"| {' | '.join(escaped)} |"


def _term(name: str, value: str) -> str:
    return f"--{name} {value}".rstrip()


if __name__ == "__main__":
    import sys

    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    print(page(), end="")
