"""Turns codes and fields into sentences of a language. Independent of the terminal."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from unicodedata import category

from lorasmith.file_names import is_beyond_locale
from lorasmith.messages import FALLBACK, has, template, tr
from lorasmith.ui.layout import cells

PROBLEMS_SHOWN = 50
DAMAGE_KINDS = ("missing", "size", "content", "manifest")
NAMES_WIDTH = 76  # cells: names that fit stand on one line
OF_MANY_LINES = frozenset({"reason", "problem"})  # fields that hold the text of a library or another sentence
CONTINUE = "--continue"
OPTION = re.compile(r"(?<=`)--([a-z0-9-]+)(?=[ `])")  # to be typed, so at the beginning of what is quoted


@dataclass(frozen=True, slots=True)
class Translator:
    """Sentences in the language of the screen."""

    language: str
    asked: str = ""  # the chosen language, if the screen cannot show it
    names: Mapping[str, str] = field(default_factory=dict)  # of options, where another command line is typed

    def naming(self, names: Mapping[str, str]) -> Translator:
        """The translator whose errors, findings and warnings name options as `names` does."""
        return replace(self, names=names)

    @property
    def in_files(self) -> Translator:
        """The translator for files, which can hold every language."""
        return Translator(self.asked) if self.asked else self

    @property
    def state_prefix(self) -> str:
        """The first part of the names of state folders; in English if the locale cannot encode the translated word."""
        prefix = self.say("state.prefix")
        return Translator(FALLBACK).say("state.prefix") if is_beyond_locale(prefix) else prefix

    def say(self, key: str, /, **fields: Any) -> str:
        """The sentence `key`; every field must be given. A `phase` is a code, of `logs.phase`."""
        if "phase" in fields:
            fields = {**fields, "phase": self._phase(fields["phase"])}
        return tr(self.language, key, **{name: visible(value, keep="\n") for name, value in fields.items()})

    def _phase(self, code: str) -> str:
        return self.say(f"logs.phase.{code}") if self.knows(f"logs.phase.{code}") else code

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
        lines += [f"  {self.problem(problem)}" for problem in problems[:PROBLEMS_SHOWN]]
        if len(problems) > PROBLEMS_SHOWN:
            lines.append("  " + self.say("message.more_problems", count=len(problems) - PROBLEMS_SHOWN))
        for finding in fields.get("findings", []):
            lines += self.finding(finding["code"], finding["fields"])
        if self.knows(f"error.{code}.hint"):
            lines.append(self.say("message.hint", text=self._filled(f"error.{code}.hint", fields)))
        return lines

    def problem(self, problem: Mapping[str, Any]) -> str:
        """The problem of a single file, as a line."""
        reason, fields = problem["reason"], problem.get("fields", {})
        is_known = self.knows(f"problem.{reason}.text")
        text = self._filled(f"problem.{reason}.text", fields) if is_known else f"{reason} {_plain(fields)}".strip()
        return self.say("message.problem", path=problem["path"], text=text)

    def finding(self, code: str, fields: Mapping[str, Any]) -> list[str]:
        """A finding about the dataset as lines: its kind and number, the first names, what to do."""
        lines = [self.say("message.note", text=self._filled(f"finding.{code}.text", fields))]
        lines += [f"  {line}" for line in self._names(fields)]
        if self.knows(f"finding.{code}.hint"):
            lines.append("  " + self.say("message.hint", text=self._filled(f"finding.{code}.hint", fields)))
        return lines

    def _names(self, fields: Mapping[str, Any]) -> list[str]:
        """The first names of a finding, on a single line if they fit."""
        if "groups" in fields:
            names, more = [" = ".join(group) for group in fields["groups"]], fields.get("more", 0)
        else:
            names = list(fields.get("files", []))
            more = fields.get("count", 0) - len(names) if names else 0
        if more > 0:
            names.append(self.say("message.more_names", count=more))
        line = ", ".join(names)
        return [line] if line and cells(line) <= NAMES_WIDTH else names

    def warning(self, code: str, fields: Mapping[str, Any]) -> list[str]:
        """A warning as lines; it may be a finding, which a ledger keeps as a warning."""
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
        """The sentence `key`, with "?" for a missing field: the ledger may be of another version."""
        needed = {name: "?" for _, name, _, _ in string.Formatter().parse(template(self.language, key)) if name}
        shown = {name: _shown(name, value) for name, value in fields.items()}
        if "damage" in fields:
            shown["damage"] = self._damage(str(fields["damage"]))
        text = self.say(key, **{**needed, **shown})
        return text if CONTINUE in text else OPTION.sub(self._typed, text)  # `train --continue` takes its own options

    def _typed(self, option: re.Match[str]) -> str:
        name = option.group(1)
        return f"--{self.names.get(name, name)}"

    def _damage(self, damage: str) -> str:
        """The sentence about the result of `states.damage_of`: the damaged file of a state."""
        kind, _, file = damage.partition(":")
        if kind in DAMAGE_KINDS:
            return self.say(f"damage.{kind}", file=file)
        return self.say("damage.unreadable", file=damage)


def visible(value: Any, *, keep: str = "") -> Any:
    """A text with its control characters escaped, except `keep`: in a path they would move the cursor or hide text."""
    if not isinstance(value, str):
        return value
    return "".join(_escaped(sign) if sign not in keep and category(sign) == "Cc" else sign for sign in value)


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")


def _shown(name: str, value: Any) -> Any:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
    if name == "options" and isinstance(value, list | tuple):  # marks of code: named as typed
        text = ", ".join(f"`{option}`" for option in value)
    return visible(text, keep="\n" if name in OF_MANY_LINES else "")


def _plain(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in fields.items())
