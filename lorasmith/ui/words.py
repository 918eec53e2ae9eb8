"""The reader's language, and the sentences in it. Knows neither terminal nor options' meaning."""

from __future__ import annotations

import string
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import category

from lorasmith.messages import choose_language, has, template, tr

FOLDER_SETTINGS = "lorasmith.toml"
PROBLEMS_SHOWN = 50
OF_MANY_LINES = frozenset({"reason", "problem"})  # fields that hold what a library or another sentence says


@dataclass(frozen=True, slots=True)
class Words:
    """Sentences in one language."""

    language: str

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
        if self.knows(f"error.{code}.hint"):
            lines.append(self.say("message.hint", text=self._filled(f"error.{code}.hint", fields)))
        return lines

    def problem(self, problem: Mapping[str, Any]) -> str:
        """What is wrong with one file."""
        reason, fields = problem["reason"], problem.get("fields", {})
        key = f"problem.{reason}.text"
        text = self._filled(key, fields) if self.knows(key) else f"{reason} {_plain(fields)}".strip()
        return self.say("message.problem", path=problem["path"], text=text)

    def warning(self, code: str, fields: Mapping[str, Any]) -> list[str]:
        """A warning as lines. What is odd about one file and does not stop the run is told like a problem."""
        if self.knows(f"warning.{code}.text"):
            if code == "picture_skipped":
                fields = {"problem": self.problem(fields)}
            text = self._filled(f"warning.{code}.text", fields)
        elif "path" in fields and self.knows(f"problem.{code}.text"):
            text = self.problem({"path": fields["path"], "reason": code, "fields": fields})
        else:
            text = f"{code} {_plain(fields)}".strip()
        lines = [self.say("message.warning", text=text)]
        if self.knows(f"warning.{code}.hint"):
            lines.append(self.say("message.hint", text=self._filled(f"warning.{code}.hint", fields)))
        return lines

    def _filled(self, key: str, fields: Mapping[str, Any]) -> str:
        """A sentence about something read from a ledger, where another version may have left a field out."""
        needed = {name: "?" for _, name, _, _ in string.Formatter().parse(template(self.language, key)) if name}
        return self.say(key, **{**needed, **{name: _shown(name, value) for name, value in fields.items()}})


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
