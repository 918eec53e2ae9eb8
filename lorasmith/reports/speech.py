"""Numbers and times as people read them, and what a report needs of the words. Knows no sentence itself."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

NOTHING = "–"
KILO = 1024.0


class Speech(Protocol):
    """The reader's language."""

    @property
    def language(self) -> str:
        """A key of `messages.LANGUAGES`."""

    def say(self, key: str, /, **fields: Any) -> str:
        """The sentence `key`."""

    def error(self, code: str, fields: Mapping[str, Any]) -> list[str]:
        """An error as lines; a code of another version too."""

    def warning(self, code: str, fields: Mapping[str, Any]) -> list[str]:
        """A warning as lines; a code of another version too."""


def short(value: float | None, *, digits: int = 3) -> str:
    """A number as few digits can say it."""
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.{max(digits, len(str(int(abs(value)))))}g}"
    return f"{value:.{max(1, digits - 1)}g}"


def measured(value: float | None) -> str:
    """A loss with three significant digits, those that are 0 too, so that columns line up."""
    if value is None:
        return NOTHING
    return f"{value:#.3g}" if 1e-3 <= abs(value) < 100 else short(value)


def share(value: float | None) -> str:
    """Percent."""
    return NOTHING if value is None else f"{100 * value:.0f} %"


def clock(seconds: float) -> str:
    """A time span: `0.42 s`, `12.3 s`, `4:05`, `1:04:05`."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def moment(time: float | None) -> str:
    """Wall-clock seconds as local time."""
    return NOTHING if time is None else datetime.fromtimestamp(time).strftime("%Y-%m-%d %H:%M:%S")


def size(count: int) -> str:
    """Bytes."""
    if count <= 0:
        return NOTHING
    amount = count / KILO**2
    return f"{amount / KILO:.1f} GB" if amount >= 1000 else f"{amount:.0f} MB"


def plain(value: Any) -> str:
    """A setting as it would be typed."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or value in ("", [], {}):
        return NOTHING
    if isinstance(value, dict):
        return ", ".join(f"{name}={plain(one)}" for name, one in value.items())
    return ", ".join(map(plain, value)) if isinstance(value, list | tuple) else str(value)


def file_name(path: str) -> str:
    """The last two parts of a path: the folder says which concept a picture belongs to."""
    return "/".join(Path(path).parts[-2:])
