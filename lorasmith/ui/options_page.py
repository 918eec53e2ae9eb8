"""docs/options.md: every option of `train` in a table, in both languages.

`python -m lorasmith.ui.options_page > docs/options.md` makes it again.
"""

from __future__ import annotations

from lorasmith.config import options
from lorasmith.messages import LANGUAGES
from lorasmith.ui.expected import expectation
from lorasmith.ui.help_text import shown_default, term
from lorasmith.ui.options import COMMAND_OPTIONS
from lorasmith.ui.translator import Translator


def page() -> str:
    """The whole file."""
    return "\n".join(_table(Translator(language)) for language in LANGUAGES)


def _table(words: Translator) -> str:
    say = words.say
    titles = [say(f"options_page.{column}") for column in ("option", "default", "takes", "meaning")]
    rows = [
        [f"`--{name}{f' {value}' if value else ''}`", "", "", say(f"option.{name}")]
        for name, value in COMMAND_OPTIONS.items()
    ]
    for option in options().values():
        default = shown_default(option)
        shown = f"`{default}`" if default else ""
        rows.append([f"`{term(option)}`", shown, expectation(words, option), say(f"option.{option.key}")])
    lines = [f"# {say('options_page.title')}", "", say("options_page.intro"), "", _row(titles), _row(["---"] * 4)]
    return "\n".join([*lines, *map(_row, rows), ""])


def _row(values: list[str]) -> str:
    """A pipe within a cell would end it."""
    escaped = [value.replace("|", r"\|") for value in values]
    return f"| {' | '.join(escaped)} |"


if __name__ == "__main__":
    import sys

    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    print(page(), end="")
