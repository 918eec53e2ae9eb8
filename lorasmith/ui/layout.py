"""Text in columns on a terminal, where a Chinese character takes two cells. Independent of sentences."""

from __future__ import annotations

import re
import unicodedata

# Characters that never begin a line.
CLOSING = "\uff0c\u3002\uff1b\uff1a\u3001\uff01\uff1f\uff09\u300d\u300f\u300b,.;:!?)]}%"


def cells(text: str) -> int:
    """The width of `text` on a terminal, in cells."""
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text)


def wrapped(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` cells, broken at spaces and wide characters; a longer word stays whole."""
    lines, line = [], ""
    for piece in _pieces(text):
        if line and cells(line) + cells(piece.rstrip()) > width:
            lines.append(line.rstrip())
            line = piece.lstrip()
        else:
            line += piece
    return [*lines, line.rstrip()]


def two_columns(rows: list[tuple[str, str]], *, left: int, width: int) -> list[str]:
    """Rows of a term and its meaning; a term that is too long has a line of its own."""
    lines = []
    for term, meaning in rows:
        texts = wrapped(meaning, max(width - left, 20))
        head = f"  {term}"
        if cells(head) + 2 > left:
            lines += _choices(head, width)
        else:
            lines.append(head + " " * (left - cells(head)) + texts.pop(0))
        lines += [" " * left + text for text in texts]
    return lines


def _choices(term: str, width: int) -> list[str]:
    """A term in lines of at most `width` cells, broken behind `|`."""
    lines, line = [], ""
    for choice in re.findall(r"[^|]+\|?", term):
        if line and cells(line) + cells(choice) > width:
            lines.append(line)
            line = "      "
        line += choice
    return [*lines, line]


def _pieces(text: str) -> list[str]:
    """The units that are not broken: a word with its space, a wide character with what may not begin a line."""
    closing = re.escape(CLOSING)
    wide = "[\u2e80-\u9fff\uf900-\ufaff\uff00-\uff60]"
    return re.findall(rf"{wide}[{closing}]*\s*|(?:(?!{wide})\S)+[{closing}]*\s*|\s+", text)
