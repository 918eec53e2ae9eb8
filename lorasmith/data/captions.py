"""The words in a caption file.

As in sd-scripts the first line is the caption (the first that is not blank); lines after it are used with wildcards
only. An empty file is an empty caption, which is not the same as no file. Knows nothing of pictures, class words and
tokens.
"""

import codecs
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from lorasmith.data.files import BadFileError, read_whole

MAX_BYTES = 2**20
LINE_END = "\n"  # between the lines of a text

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"", "utf-8"),
)


@dataclass(frozen=True, slots=True)
class CaptionText:
    """The contents of a caption file."""

    text: str  # the lines that are not blank; "" in an empty file

    @property
    def caption(self) -> str:
        """The first line."""
        return self.text.partition(LINE_END)[0]

    @property
    def has_more_lines(self) -> bool:
        return LINE_END in self.text


def read_text(path: Path) -> CaptionText:
    """Reads UTF-8 with or without byte order mark, UTF-16 with it; any line ends.

    Raises:
        BadFileError: `caption_encoding` or `caption_nul`, with the offset of the byte; `file_too_big` over MAX_BYTES;
            what `read_whole` raises.
    """
    data = read_whole(path, most=MAX_BYTES)
    mark, encoding = next(pair for pair in _BYTE_ORDER_MARKS if data.startswith(pair[0]))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        raise BadFileError(path, "caption_encoding", encoding=encoding, offset=len(mark) + error.start) from None
    if "\0" in text:
        before = text[: text.index("\0")].encode(encoding)
        raise BadFileError(path, "caption_nul", offset=len(mark) + len(before))
    return CaptionText(LINE_END.join(line for line in map(cleaned, re.split(r"\r\n|\r|\n", text)) if line))


def cleaned(text: str) -> str:
    """The text with a single space for control characters and runs of white space, and none at the ends."""
    without_controls = (" " if unicodedata.category(sign) == "Cc" else sign for sign in text)
    return " ".join("".join(without_controls).split())


def with_trigger(caption: str, trigger_word: str) -> str:
    """The trigger word before the caption, with a comma; either may be empty. A caption that begins with it stays."""
    trigger = trigger_word.strip()
    rest = caption[len(trigger) :]
    if (
        trigger
        and caption[: len(trigger)].casefold() == trigger.casefold()
        and not (rest[:1].isalnum() or rest[:1] == "_")
    ):
        return caption
    return ", ".join(part for part in (trigger, caption) if part)
