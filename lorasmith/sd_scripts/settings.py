"""The settings of a run as a translation collects them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Note = tuple[str, dict[str, Any]]  # code and fields of a warning


@dataclass(slots=True)
class Settings:
    """Values by the name of our option, the argument that each comes from, and notes."""

    values: dict[str, Any] = field(default_factory=dict)
    recorded: dict[tuple[str, str], Any] = field(default_factory=dict)  # by (section, field): no options
    shares: dict[str, float] = field(default_factory=dict)  # by option: a share of all steps, whose number is not known
    arguments: dict[str, str] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)

    def set(self, option: str, value: Any, argument: str) -> None:
        """Sets an option, named by the argument where a message is about it."""
        self.values[option] = value
        self.arguments[option] = f"--{argument}"

    def note(self, code: str, /, **fields: Any) -> None:
        """Adds the warning `code`."""
        self.notes.append((code, fields))
