"""What an option takes, in words, read off its field in the config model. Knows no option by name."""

from __future__ import annotations

import types
import typing
from typing import Any, Literal, Union

import annotated_types as limits

from lorasmith.config import Option, options
from lorasmith.ui.translator import Translator

KINDS = {int: "integer", float: "number", str: "text", bool: "flag", dict: "pairs", tuple: "text"}


def expected(words: Translator, name: str) -> str:
    """What the option called `name` takes; "" where there is no such option."""
    found = options().get(name.replace("-", "_"))
    return "" if found is None else expectation(words, found)


def expectation(words: Translator, option: Option) -> str:
    """Kind and range of an option, or a sentence of its own where its field is checked by more than these."""
    if words.knows(f"expected.of.{option.key}"):
        return words.say(f"expected.of.{option.key}")
    parts = []
    for kind in kinds(option):
        if isinstance(kind, tuple):
            parts.append(words.say("expected.one_of", choices=", ".join(str(one) for one in kind if one)))
        else:
            parts.append(words.say(f"expected.{KINDS[kind]}"))
    text = words.say("expected.or").join(parts)
    for limit, value in _limits(option):
        text += words.say("expected.and") + words.say(f"expected.{limit}", limit=value)
    return text


def kinds(option: Option) -> list[type | tuple[Any, ...]]:
    """The types an option takes, `None` aside; a tuple stands for a choice of values."""
    return [kind for kind in _alternatives(option.field.annotation) if kind is not type(None)]


def metavar(option: Option) -> str:
    """What stands for its value in the help."""
    first = kinds(option)[0]
    if isinstance(first, tuple):
        return "|".join(str(one) for one in first if one)
    plain = {int: "N", float: "X", str: "TEXT", bool: "", dict: "K=V", tuple: "TEXT"}[first]
    choices = [one for kind in kinds(option)[1:] if isinstance(kind, tuple) for one in kind]
    return "|".join([plain, *map(str, choices)])


def is_flag(option: Option) -> bool:
    return kinds(option) == [bool]


def is_repeated(option: Option) -> bool:
    """Whether it may be given several times: one K=V each, or one text each."""
    return kinds(option) in ([dict], [tuple])


def _alternatives(annotation: Any) -> list[Any]:
    origin = typing.get_origin(annotation)
    if origin in (Union, types.UnionType):
        return [one for part in typing.get_args(annotation) for one in _alternatives(part)]
    if origin is Literal:
        return [typing.get_args(annotation)]
    return [origin or annotation]


def _limits(option: Option) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for one in option.field.metadata:
        if isinstance(one, limits.Ge):
            found.append(("at_least", one.ge))
        elif isinstance(one, limits.Gt):
            found.append(("more_than", one.gt))
        elif isinstance(one, limits.Le):
            found.append(("at_most", one.le))
        elif isinstance(one, limits.Lt):
            found.append(("less_than", one.lt))
    return found
