"""The sentences: turns a code and its fields into a sentence in the reader's language. Read from TOML, a folder for
each language.

Only `ui` and `reports` may import this package; the engine uses codes.
"""

import locale
import os
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from lorasmith.languages import ENGLISH, LANGUAGES, language_named

__all__ = ["FALLBACK", "LANGUAGES", "choose_language", "has", "keys", "template", "tr"]

FALLBACK = ENGLISH


def choose_language(asked: str, configured: str, environment: Mapping[str, str]) -> str:
    """The language of --lang, else LORASMITH_LANG, else `lorasmith.toml`, else the locale, else English."""
    for name in (asked, environment.get("LORASMITH_LANG", ""), configured):
        if language := language_named(name):
            return language
    return _from_locale(environment)


def tr(language: str, key: str, /, **fields: Any) -> str:
    """The sentence `key` with its fields filled in.

    Raises:
        KeyError: no such key, or a field that the sentence needs is missing.
    """
    return _catalog(language)[key].format_map(fields)


def has(language: str, key: str) -> bool:
    """Whether there is such a sentence: hints are optional."""
    return key in _catalog(language)


def template(language: str, key: str) -> str:
    """The sentence `key` with its fields unfilled."""
    return _catalog(language)[key]


def keys(language: str) -> frozenset[str]:
    """The keys of all sentences."""
    return frozenset(_catalog(language))


@cache
def _catalog(language: str) -> dict[str, str]:
    folder = Path(__file__).with_name(language.replace("-", "_"))
    flat: dict[str, str] = {}
    for file in sorted(folder.glob("*.toml")):
        _flatten("", tomllib.loads(file.read_text(encoding="utf-8")), flat)
    return flat


def _flatten(prefix: str, table: Mapping[str, Any], into: dict[str, str]) -> None:
    for key, value in table.items():
        if isinstance(value, str):
            into[prefix + key] = value
        else:
            _flatten(f"{prefix}{key}.", value, into)


def _from_locale(environment: Mapping[str, str]) -> str:
    named = [environment.get(variable, "") for variable in ("LC_ALL", "LC_MESSAGES", "LANG")]
    name = next(filter(None, named), "")
    if not name and os.name == "nt":
        name = locale.getlocale()[0] or ""
    return language_named(name) or FALLBACK
