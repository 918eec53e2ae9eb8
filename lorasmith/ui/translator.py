"""The reader's language, and the sentences in it. Knows neither terminal nor options' meaning."""

from __future__ import annotations

import string
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import category

from lorasmith.file_names import is_beyond_locale
from lorasmith.messages import FALLBACK, choose_language, has, template, tr
from lorasmith.ui.layout import cells

FOLDER_SETTINGS = "lorasmith.toml"
PROBLEMS_SHOWN = 50
DAMAGE_KINDS = ("missing", "size", "content", "manifest")
NAMES_WIDTH = 76  # cells: names that fit stand on one line
OF_MANY_LINES = frozenset({"reason", "problem"})  # fields that hold what a library or another sentence says


@dataclass(frozen=True, slots=True)
class Translator:
    """Sentences in one language, that of the screen."""

    language: str
    asked: str = ""  # the language that was chosen, where the screen cannot show it

    @property
    def in_files(self) -> Translator:
        """Sentences for files, which can hold every language."""
        return Translator(self.asked) if self.asked else self

    @property
    def state_prefix(self) -> str:
        """The first part of the names of state folders; in English where the locale has no bytes for it."""
        prefix = self.say("state.prefix")
        return Translator(FALLBACK).say("state.prefix") if is_beyond_locale(prefix) else prefix

    def say(self, key: str, /, **fields: Any) -> str:
        """The sentence `key`; every field must be given."""
        return tr(self.language, key, **{name: visible(value, keep="\n") for name, value in fields.items()})

    def knows(self, key: str) -> bool:
        return has(self.language, key)

    def error(self, code: str, fields: Mapping[str, Any]) -> list[str]:
        """An error as lines: what happened, each picture's problem, what to do.

        An older program may meet a newer ledger, so a code without a sentence is shown as it is.
        """
        if not self.knows(f"error.{code}.text"):
            return [self.say("error.unknown_code.text", code=code, fields=_plain(fields))]
        lines = [self.say("message.error", text=self._filled(f"error.{code}.text", fields))]
        problems = fields.get("problems", [])
        lines += [f"  {self.problem(one)}" for one in problems[:PROBLEMS_SHOWN]]
        if len(problems) > PROBLEMS_SHOWN:
            lines.append("  " + self.say("message.more_problems", count=len(problems) - PROBLEMS_SHOWN))
        for one in fields.get("findings", []):
            lines += self.finding(one["code"], one["fields"])
        if self.knows(f"error.{code}.hint"):
            lines.append(self.say("message.hint", text=self._filled(f"error.{code}.hint", fields)))
        return lines

    def problem(self, problem: Mapping[str, Any]) -> str:
        """What is wrong with one file."""
        reason, fields = problem["reason"], problem.get("fields", {})
        is_known = self.knows(f"problem.{reason}.text")
        text = self._filled(f"problem.{reason}.text", fields) if is_known else f"{reason} {_plain(fields)}".strip()
        return self.say("message.problem", path=problem["path"], text=text)

    def finding(self, code: str, fields: Mapping[str, Any]) -> list[str]:
        """Something about the dataset as lines: what it is and how many there are, the first names, what to do."""
        lines = [self.say("message.note", text=self._filled(f"finding.{code}.text", fields))]
        lines += [f"  {line}" for line in self._names(fields)]
        if self.knows(f"finding.{code}.hint"):
            lines.append("  " + self.say("message.hint", text=self._filled(f"finding.{code}.hint", fields)))
        return lines

    def _names(self, fields: Mapping[str, Any]) -> list[str]:
        """The first names of a finding, on one line if they fit."""
        if "groups" in fields:
            names, more = [" = ".join(group) for group in fields["groups"]], fields.get("more", 0)
        else:
            names = list(fields.get("files", []))
            more = fields.get("count", len(names)) - len(names)
        if more > 0:
            names.append(self.say("message.more_names", count=more))
        line = ", ".join(names)
        return [line] if line and cells(line) <= NAMES_WIDTH else names

    def warning(self, code: str, fields: Mapping[str, Any]) -> list[str]:
        """A warning as lines; findings among them, which a run's ledger keeps as warnings."""
        if self.knows(f"finding.{code}.text"):
            return self.finding(code, fields)
        if self.knows(f"warning.{code}.text"):
            if code == "picture_skipped":
                fields = {"problem": self.problem(fields)}
            text = self._filled(f"warning.{code}.text", fields)
        else:
            text = f"{code} {_plain(fields)}".strip()
        lines = [self.say("message.warning", text=text)]
        if self.knows(f"warning.{code}.hint"):
            lines.append(self.say("message.hint", text=self._filled(f"warning.{code}.hint", fields)))
        return lines

    def _filled(self, key: str, fields: Mapping[str, Any]) -> str:
        """A sentence about something read from a ledger, where another version may have left a field out."""
        needed = {name: "?" for _, name, _, _ in string.Formatter().parse(template(self.language, key)) if name}
        shown = {name: _shown(name, value) for name, value in fields.items()}
        if "damage" in fields:
            shown["damage"] = self._damage(str(fields["damage"]))
        return self.say(key, **{**needed, **shown})

    def _damage(self, damage: str) -> str:
        """What `saved_states.damage_of` found: the file of a state, and what is wrong with it."""
        kind, _, file = damage.partition(":")
        if kind in DAMAGE_KINDS:
            return self.say(f"damage.{kind}", file=file)
        return self.say("damage.unreadable", file=damage)


def language_of(arguments: Sequence[str], environment: Mapping[str, str], here: Path) -> str:
    """The language, known before any argument is checked, as its first use may be to refuse one."""
    asked = ""
    for number, one in enumerate(arguments):
        name, is_joined, value = one.partition("=")
        if name == "--lang":
            asked = value if is_joined else next(iter(arguments[number + 1 : number + 2]), "")
    return choose_language(asked, _configured_language(here / FOLDER_SETTINGS), environment)


def _configured_language(path: Path) -> str:
    """`lang` of the folder's settings; whether the rest of the file is right is for others to say."""
    try:
        found = tomllib.loads(path.read_bytes().decode("utf-8-sig")).get("lang", "")
    except (OSError, ValueError):
        return ""
    return found if isinstance(found, str) else ""


def visible(value: Any, *, keep: str = "") -> Any:
    """A text with its control characters escaped, `keep` aside: in a path they would move the cursor, or hide."""
    if not isinstance(value, str):
        return value
    return "".join(_escaped(sign) if sign not in keep and category(sign) == "Cc" else sign for sign in value)


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")


def _shown(name: str, value: Any) -> Any:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return visible(text, keep="\n" if name in OF_MANY_LINES else "")


def _plain(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in fields.items())
