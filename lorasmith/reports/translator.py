"""The reader's language as a report needs it, and numbers and times as people read them. Knows no sentence itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

NOTHING = "–"
KIB = 1024.0
MAX_TICK_ERROR = 0.02  # of the number beside a mark on an axis, as a share of the distance between marks


class Translator(Protocol):
    """Sentences in the reader's language."""

    @property
    def language(self) -> str:
        """A key of `messages.LANGUAGES`."""

    def say(self, key: str, /, **fields: Any) -> str:
        """The sentence `key`."""

    def error(self, code: str, fields: Mapping[str, Any]) -> list[str]:
        """An error as lines; a code of another version too."""

    def warning(self, code: str, fields: Mapping[str, Any]) -> list[str]:
        """A warning as lines; a code of another version too."""


def short(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant digits, without trailing zeros."""
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.{max(digits, len(str(int(abs(value)))))}g}"
    return f"{value:.{max(1, digits - 1)}g}"


def distinct(values: Sequence[float]) -> list[str]:
    """Numbers of an axis in order, with as many digits as it takes to tell them apart and to show them where they are
    (0.9675 between 0.965 and 0.97 is not 0.968), at least three."""
    gap = min((after - before for before, after in pairwise(values)), default=0.0)
    for digits in range(3, 9):
        texts = [short(value, digits) for value in values]
        errors = [abs(float(text) - value) for text, value in zip(texts, values, strict=True)]
        if len(set(texts)) == len(values) and max(errors, default=0.0) <= MAX_TICK_ERROR * gap:
            break
    return texts


def loss_text(value: float | None) -> str:
    """A loss with three significant digits, trailing zeros included, so that columns line up."""
    if value is None:
        return NOTHING
    return f"{value:#.3g}" if 1e-3 <= abs(value) < 100 else short(value)


def with_error(value: float | None, error: float | None) -> str:
    """A number and its standard error, where that is known: `0.149 ± 0.013`."""
    return short(value, 4) if error is None else f"{short(value, 4)} ± {short(error, 2)}"


def percent(share: float | None) -> str:
    """A share as whole percent: `57 %`."""
    return NOTHING if share is None else f"{100 * share:.0f} %"


def duration(seconds: float) -> str:
    """A time span: `0.42 s`, `12.3 s`, `4:05`, `1:04:05`."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def local_time(time: float | None) -> str:
    """Wall-clock seconds since 1970 as local date and time."""
    return NOTHING if time is None else datetime.fromtimestamp(time).strftime("%Y-%m-%d %H:%M:%S")


def byte_size(count: int) -> str:
    """Bytes as MB or GB (of 1024)."""
    if count <= 0:
        return NOTHING
    amount = count / KIB**2
    return f"{amount / KIB:.1f} GB" if amount >= 1000 else f"{amount:.0f} MB"


def setting_text(value: Any) -> str:
    """The value of a setting as a person would type it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or value in ("", [], {}):
        return NOTHING
    if isinstance(value, dict):
        return ", ".join(f"{name}={setting_text(part)}" for name, part in value.items())
    return ", ".join(map(setting_text, value)) if isinstance(value, list | tuple) else str(value)


def file_name(path: str) -> str:
    """The last two parts of a path: the folder of a picture names its concept."""
    return "/".join(Path(path).parts[-2:])
