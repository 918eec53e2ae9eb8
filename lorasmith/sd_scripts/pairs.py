"""The `key=value` pairs of `--network_args`, `--optimizer_args` and `--lr_scheduler_args`."""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from typing import Any

from lorasmith.errors import ConfigError

TRUE = ("true", "1", "yes", "on")
FALSE = ("false", "0", "no", "off", "none", "")


def pairs(texts: Sequence[str], argument: str) -> dict[str, str]:
    """The pairs by key, the last of a repeated key.

    Raises:
        ConfigError: `sd_no_pair`.
    """
    found = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise ConfigError("sd_no_pair", argument=argument, given=text)
        found[key.strip()] = value.strip().strip("\"'")
    return found


def literals(texts: Sequence[str], argument: str) -> dict[str, Any]:
    """The pairs with values read as Python literals: `betas=0.9,0.99` is a list of two numbers, None is left out.

    Raises:
        ConfigError: `sd_no_pair`; `sd_no_literal`, a value that is neither a literal nor a word; `sd_pair_comma`, a
            single value with the comma of a list.
    """
    found = {}
    for key, text in pairs(texts, argument).items():
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            if not text.replace("_", "").replace(".", "").replace("-", "").isalnum():
                raise ConfigError("sd_no_literal", argument=argument, key=key, value=text) from None
            value = {"true": True, "false": False}.get(text.lower(), text)
        if isinstance(value, tuple) and len(value) == 1 and text.endswith(","):
            raise ConfigError("sd_pair_comma", argument=argument, given=f"{key}={text}", pair=f"{key}={text[:-1]}")
        if value is not None:
            found[key] = _plain(value)
    return found


def number(value: str, *, argument: str, key: str) -> float:
    """The number of a pair.

    Raises:
        ConfigError: `sd_pair_no_number`.
    """
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ConfigError("sd_pair_no_number", argument=argument, key=key, value=value)
    return found


def whole(value: str, *, argument: str, key: str) -> int:
    """The whole number of a pair.

    Raises:
        ConfigError: `sd_pair_no_number`.
    """
    found = number(value, argument=argument, key=key)
    if found != int(found):
        raise ConfigError("sd_pair_no_number", argument=argument, key=key, value=value)
    return int(found)


def truth(value: str, *, argument: str, key: str) -> bool:
    """The truth value of a pair.

    Raises:
        ConfigError: `sd_pair_no_truth`.
    """
    if value.lower() in TRUE:
        return True
    if value.lower() in FALSE:
        return False
    raise ConfigError("sd_pair_no_truth", argument=argument, key=key, value=value)


def _plain(value: Any) -> Any:
    """A value as TOML can hold it: lists for tuples."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
