"""The result of an import: values for `lorasmith.toml`, and the settings that were left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from lorasmith.config import RunConfig, options
from lorasmith.config.request import Request
from lorasmith.config.run import validated
from lorasmith.config.subsets import resolved_subsets
from lorasmith.errors import ConfigError

OFF: tuple[Any, ...] = (None, "", False, 0, 0.0, [], {}, "NONE", "OFF", "NEVER")
"""Values that say of any setting that it is not used."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A setting that was not carried over."""

    name: str  # as the file has it
    value: Any
    reason: str  # code of the sentence `import.reason.<reason>`


@dataclass(slots=True)
class Imported:
    """Values by their keys in `lorasmith.toml`, and what was left out."""

    trainer: str
    values: dict[str, Any] = field(default_factory=dict)
    subsets: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # warnings: code and fields

    def leave(self, name: str, value: Any, reason: str = "no_counterpart") -> None:
        self.left_out.append(LeftOut(name, value, reason))

    def take(self, source: Source, name: str, key: str, read: Callable[[Any], Any] = lambda value: value) -> None:
        """Carries a setting over as `key`, if it is given; leaves it out where it has no value for us.

        Args:
            read: the value here; None if there is no such value.
        """
        value = source.read(name)
        if value is None:
            return
        converted = read(value)
        if converted is None:
            self.leave(source.full(name), value, "value")
        else:
            self.values[key] = converted

    def leave_rest(self, source: Source, without_effect: frozenset[str]) -> None:
        """Names the settings of a table that were not read, if they are used and have an effect."""
        for name, value in source.unread().items():
            if name not in without_effect and value not in OFF:
                self.leave(source.full(name), value)

    def checked(self) -> Imported:
        """Without the values that our options do not take, which are named among those left out; and without those
        that are the defaults."""
        known, good = options(), RunConfig()
        values: dict[str, Any] = {}
        for key, value in self.values.items():
            if key not in known:
                self.leave(key, value, "not_yet")
                continue
            place = known[key].section, known[key].field_name
            try:
                if place[0] == "request":
                    validated(Request, {place[1]: value})
                else:
                    good = good.with_values({place: value})
            except ConfigError:
                self.leave(key, value, "value")
                continue
            if (tuple(value) if isinstance(value, list) else value) != known[key].field.default:
                values[key] = value
        if self.subsets:
            good = good.with_values({("dataset", "subsets"): tuple(self.subsets)})
            resolved_subsets(good, known)
        return Imported(self.trainer, values, self.subsets, self.left_out, self.notes)


class Source:
    """A table of another trainer's settings, which remembers what was read."""

    def __init__(self, table: Any, name: str = "") -> None:
        self._table: Mapping[str, Any] = table if isinstance(table, Mapping) else {}
        self._name = name
        self._read: set[str] = set()

    def read(self, name: str, default: Any = None) -> Any:
        self._read.add(name)
        value = self._table.get(name)
        return default if value is None else value

    def part(self, name: str) -> Source:
        """A table inside; an empty table where there is none."""
        return Source(self.read(name), self.full(name))

    def full(self, name: str) -> str:
        return f"{self._name}.{name}" if self._name else name

    def unread(self) -> dict[str, Any]:
        return {name: value for name, value in self._table.items() if name not in self._read}


def whole(value: Any) -> int | None:
    """The whole number of a number or a text; None of anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() else None


def used(value: Any) -> Any:
    """The value; None where it says that the setting is not used."""
    return None if value in OFF else value


def one_of(choices: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Reads a text by a table, in any case; None where the table lacks it."""
    table = {name.lower(): value for name, value in choices.items()}
    return lambda value: table.get(str(value).lower())


@cache
def without_effect(group: str) -> frozenset[str]:
    """The names of a group of settings in without_effect.tsv."""
    lines = (Path(__file__).parent / "without_effect.tsv").read_text(encoding="utf-8").splitlines()
    rows = (line.partition("\t") for line in lines if not line.startswith("#"))
    return frozenset(name for found, _, names in rows if found == group for name in names.split())
