"""docs/sd-scripts.md, and the page of `train-network --help`: what becomes of every argument of sd-scripts.

`python -m lorasmith.ui.sd_scripts_page > docs/sd-scripts.md` makes the page of the documentation.
"""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator

from lorasmith.messages import LANGUAGES
from lorasmith.sd_scripts.arguments import Script, arguments, known_to, of_other_scripts
from lorasmith.sd_scripts.table import DONE, HARMLESS, NO_EFFECT, REFUSED
from lorasmith.ui.layout import wrapped
from lorasmith.ui.translator import Translator

MAX_WIDTH = 120  # cells
LAST_CLAUSE = re.compile("[;\uff1b][^;\uff1b]*$")  # after a semicolon, in English or Chinese


def help_page(words: Translator, command: str, script: Script) -> str:
    """The page of --help: the names of all arguments, by what becomes of them."""
    width = min(shutil.get_terminal_size().columns, MAX_WIDTH)
    say = words.say
    lines = [say("help.usage", command=command, rest=say("sd_scripts.rest")), ""]
    scripts = ("train_network", "sdxl_train_network") if script == "sdxl_train_network" else (script,)
    lines += wrapped(say("sd_scripts.about", scripts=" / ".join(f"`{name}.py`" for name in scripts)), width)
    known = known_to(script)
    lists = {
        say("sd_scripts.page.done"): list(DONE),
        say("sd_scripts.page.no_effect"): list(NO_EFFECT),
        say("sd_scripts.page.refused"): list(REFUSED),
    }
    for title, names in lists.items():
        shown = " ".join(f"--{name}" for name in names if name in known)
        if shown:
            lines += ["", title, *(f"  {line}" for line in wrapped(shown, width - 2))]
    return "\n".join(lines)


def page() -> str:
    """docs/sd-scripts.md, in each language."""
    return "\n".join("\n".join(_of_language(Translator(language))) for language in LANGUAGES)


def _of_language(words: Translator) -> Iterator[str]:
    say = words.say
    yield f"# {say('sd_scripts.page.title')}"
    yield f"\n{say('sd_scripts.page.intro')}"
    yield f"\n## {say('sd_scripts.page.done')}\n"
    yield from _table([say(f"sd_scripts.page.{title}") for title in ("argument", "default", "options", "note")])
    for name, row in DONE.items():
        default = arguments()[name].default
        note = say(f"sd_scripts.note.{row.note}") if row.note else ""
        yield _row([f"`--{name}`", _code([default]), _code(f"--{option}" for option in row.options), note])
    yield f"\n## {say('sd_scripts.page.no_effect')}\n"
    yield f"{say('sd_scripts.page.no_effect_intro')}\n"
    yield from _table([say("sd_scripts.page.argument"), say("sd_scripts.page.reason")])
    yield from _without_effect(words)
    yield f"\n## {say('sd_scripts.page.refused')}\n"
    yield f"{say('sd_scripts.page.refused_intro')}\n"
    yield from _table([say("sd_scripts.page.argument"), say("sd_scripts.page.reason")])
    yield from _refused(words)
    yield f"\n## {say('sd_scripts.page.others')}\n"
    yield f"{say('sd_scripts.page.others_intro')}\n"
    yield from _table([say("sd_scripts.page.argument"), say("sd_scripts.page.scripts")])
    by_scripts: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, scripts in of_other_scripts().items():
        by_scripts[scripts].append(name)
    for scripts, names in by_scripts.items():
        yield _row([_code(f"--{name}" for name in names), _code(f"{script}.py" for script in scripts)])
    yield ""


def _without_effect(words: Translator) -> Iterator[str]:
    """A row for each note, without its last clause, which names the arguments."""
    by_note: dict[str, list[str]] = defaultdict(list)
    for name, row in NO_EFFECT.items():
        by_note[row.note].append(name)
    for note, names in by_note.items():
        shown = _code(f"--{name}" for name in names)
        text = words.say(f"warning.{note}.text", arguments="", folder="NAME-run/logs")
        yield _row([shown, LAST_CLAUSE.sub("", text)])


def _refused(words: Translator) -> Iterator[str]:
    for name, row in REFUSED.items():
        text = words.say(f"error.{row.reason}.text", argument=f"--{name}")
        if words.knows(f"error.{row.reason}.hint"):
            text += words.say("sd_scripts.page.hint", text=words.say(f"error.{row.reason}.hint"))
        harmless = HARMLESS.get(name, ())
        if harmless:
            text = words.say("sd_scripts.page.values", reason=text)
        yield _row([" ".join(f"`--{name} {value}`" for value in harmless) or f"`--{name}`", text])


def _table(titles: list[str]) -> Iterator[str]:
    yield _row(titles)
    yield _row(["---"] * len(titles))


def _row(values: Iterable[str]) -> str:
    """A row of a Markdown table; a pipe within a cell would end it."""
    escaped = [value.replace("|", r"\|") for value in values]
    return f"| {' | '.join(escaped)} |"


def _code(texts: Iterable[str]) -> str:
    return " ".join(f"`{text}`" for text in texts if text)


if __name__ == "__main__":
    import sys

    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    print(page(), end="")
