"""The words that go with a picture: from the file of the same name, `.txt` before `.caption`.

As in sd-scripts the first line is the caption (the first that is not blank); lines after it are not used. An empty file
is an empty caption, which is something else than no file. Knows nothing of pictures, class words and tokens.
"""

import codecs
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lorasmith.data.files import BadFileError, read_whole

EXTENSIONS = (".txt", ".caption")  # in this order
MOST_BYTES = 2**20

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"", "utf-8"),
)


@dataclass(frozen=True, slots=True)
class CaptionText:
    """What a caption file holds."""

    caption: str
    has_more_lines: bool  # that are not blank, and not used


def read_caption(image_path: Path) -> str | None:
    """The caption beside a picture; None where there is no file for one.

    Raises:
        BadFileError: as `read_text`.
    """
    beside = caption_files(entry.name for entry in image_path.parent.iterdir())
    name = find_caption(image_path.name, beside)
    return None if name is None else read_text(image_path.with_name(name)).caption


def caption_files(names: Iterable[str]) -> dict[str, str]:
    """Of the file names of one folder, those of captions, by stem; extensions in any case.

    A stem is also there in its composed form (NFC), so that names that went through a Mac still find each other.
    """
    found: dict[str, tuple[int, str]] = {}
    for name in sorted(names):
        stem, extension = os.path.splitext(name)  # noqa: PTH122 - a name, not a path
        if extension.lower() not in EXTENSIONS or name.startswith("."):
            continue
        rank = EXTENSIONS.index(extension.lower())
        for key in (stem, unicodedata.normalize("NFC", stem)):
            if key not in found or rank < found[key][0]:
                found[key] = (rank, name)
    return {stem: name for stem, (_, name) in found.items()}


def find_caption(image_name: str, beside: Mapping[str, str]) -> str | None:
    """The caption file of a picture among those of its folder, as `caption_files` lists them."""
    stem = os.path.splitext(image_name)[0]  # noqa: PTH122 - a name, not a path
    return beside.get(stem) or beside.get(unicodedata.normalize("NFC", stem))


def read_text(path: Path) -> CaptionText:
    """UTF-8 with or without byte order mark, UTF-16 with one; any line ends.

    Raises:
        BadFileError: `caption_encoding` or `caption_nul`, with the offset of the byte; `file_too_big` over MOST_BYTES;
            what `read_whole` raises.
    """
    data = read_whole(path, most=MOST_BYTES)
    mark, encoding = next(pair for pair in _BYTE_ORDER_MARKS if data.startswith(pair[0]))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        raise BadFileError(path, "caption_encoding", encoding=encoding, offset=len(mark) + error.start) from None
    if "\0" in text:
        before = text[: text.index("\0")].encode(encoding)
        raise BadFileError(path, "caption_nul", offset=len(mark) + len(before))
    lines = [line for line in map(cleaned, re.split(r"\r\n|\r|\n", text)) if line]
    return CaptionText(lines[0] if lines else "", len(lines) > 1)


def cleaned(text: str) -> str:
    """Control characters and runs of white space as one space, none at the ends."""
    return " ".join("".join(" " if unicodedata.category(one) == "Cc" else one for one in text).split())


def with_trigger(caption: str, trigger_word: str) -> str:
    """The trigger word before the caption, with a comma; either may be empty."""
    return ", ".join(part for part in (trigger_word.strip(), caption) if part)
