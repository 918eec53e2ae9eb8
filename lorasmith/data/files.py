"""Reads any file of the dataset folder, whatever it is: never blocks and never fills the memory.

Knows nothing of pictures and captions.
"""

import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lorasmith.data.types import Problem
from lorasmith.errors import DatasetError
from lorasmith.file_names import readable

# Control characters, line and paragraph separators, and those that turn or hide text.
_HIDDEN = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u2069\\ufeff]")


class BadFileError(DatasetError):
    """A file that cannot be used; `problem` has the reason. Its fields are those of `dataset_problems`."""

    def __init__(self, path: Path, reason: str, **fields: Any) -> None:
        self.problem = Problem(path, reason, fields)
        super().__init__("dataset_problems", count=1, problems=as_fields([self.problem]))


def as_fields(problems: Iterable[Problem]) -> list[dict[str, Any]]:
    """Problems as JSON values. Bytes of a path that are not text are shown as \\xXX."""
    return [{"path": shown(problem.path), "reason": problem.reason, "fields": problem.fields} for problem in problems]


def shown(path: Path) -> str:
    """The path as text that any encoding of Unicode can hold, and that a terminal shows as it is read: what would move
    its cursor or turn its direction of writing is shown as \\xXX or \\uXXXX, undecoded bytes as \\xXX."""
    text = "".join(ascii(character)[1:-1] if _HIDDEN.match(character) else character for character in str(path))
    return readable(text)


def read_whole(path: Path, *, most: int) -> bytes:
    """The bytes of a regular file, links followed. A pipe, socket or device is refused without being opened.

    Raises:
        BadFileError: `file_missing`, `file_unreadable`, `file_irregular`, or `file_too_big` over `most` bytes.
    """
    return _read(path, most=most, count=None)


def read_head(path: Path, count: int) -> bytes:
    """The first `count` bytes of a regular file, or all there are.

    Raises:
        BadFileError: as `read_whole`, whatever the size.
    """
    return _read(path, most=None, count=count)


def _read(path: Path, *, most: int | None, count: int | None) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BadFileError(path, "file_irregular")
        if most is not None and status.st_size > most:
            raise BadFileError(path, "file_too_big", bytes=status.st_size, most=most)
        with path.open("rb") as file:
            return file.read(status.st_size if count is None else count)  # not more, should it be growing
    except FileNotFoundError:
        raise BadFileError(path, "file_missing") from None
    except OSError as error:
        raise BadFileError(path, "file_unreadable", detail=error.strerror or type(error).__name__) from error
