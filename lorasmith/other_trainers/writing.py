"""Imported settings as the text of a `lorasmith.toml`."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from typing import Any

import tomli_w

from lorasmith.other_trainers.imported import Imported

MAX_SHOWN = 80  # letters of a value that was left out


def toml_text(found: Imported, comments: Iterable[str]) -> str:
    """The settings, below lines of comment."""
    values: dict[str, Any] = dict(found.values)
    if found.subsets:
        values["dataset"] = {"subsets": found.subsets}
    head = "".join(f"# {line}\n" for line in comments)
    return f"{head}\n{tomli_w.dumps(values, multiline_strings=False)}"


def shown(value: Any) -> str:
    """A value as a line shows it."""
    text = value if isinstance(value, str) else reprlib.repr(value)  # a value of YAML may refer to itself
    line = " ".join(text.split())
    return line if len(line) <= MAX_SHOWN else f"{line[: MAX_SHOWN - 1]}…"
