"""What the encodings of the standard streams can show. Knows no command.

A stream that cannot show a language gets English; a sign that it cannot show is replaced by one that it can.
"""

from __future__ import annotations

import codecs
import io
import re
import sys
from typing import TextIO

from lorasmith.messages import FALLBACK, keys, template
from lorasmith.ui.words import Words

# What sentences use beyond ASCII, as every terminal can show it.
PLAIN_SIGNS = str.maketrans({"…": "...", "–": "-", "—": "-", "−": "-", "×": "x", "±": "+-", "·": "-", "✓": "ok"})
HANDLER = "lorasmith"
UNDECODED = re.compile("([\udc80-\udcff]+)")  # bytes of file names that are no text in the locale's encoding


def make_streams_lenient() -> None:
    """A stream that cannot show a sign shows another in its place, and never ends the program."""
    codecs.register_error(HANDLER, _replaced)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def words_in(language: str) -> Words:
    """The sentences in that language, or in English where a stream cannot show it, with a line that says so."""
    encoding = next((one for one in map(_encoding, (sys.stdout, sys.stderr)) if not _can_show(one, language)), "")
    if not encoding:
        return Words(language)
    words = Words(FALLBACK, asked=language)
    print(words.say("message.language_not_shown", encoding=encoding), file=sys.stderr)
    return words


def shows_everything(stream: TextIO) -> bool:
    """Whether the stream takes every character there is."""
    return codecs.lookup(_encoding(stream)).name.startswith("utf")


def _encoding(stream: TextIO | None) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


def _can_show(encoding: str, language: str) -> bool:
    """Whether the encoding has every letter of the language's sentences; other signs have a replacement."""
    if codecs.lookup(encoding).name.startswith("utf"):
        return True
    letters = {sign for key in keys(language) for sign in template(language, key) if sign.isalpha()}
    try:
        "".join(letters).encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    """In place of what a stream cannot encode: a plain sign, or the number of a character as JSON has it.

    A file name that a locale of ASCII could not decode goes out by its own bytes where they are UTF-8.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    if error.encoding not in ("ascii", "utf-8") or not UNDECODED.search(text):
        return _ascii(text), error.end
    parts = (_own_bytes(part) if UNDECODED.match(part) else _ascii(part).encode() for part in UNDECODED.split(text))
    return b"".join(parts), error.end


def _own_bytes(undecoded: str) -> bytes:
    data = undecoded.encode("ascii", "surrogateescape")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return _ascii(undecoded).encode()
    return data


def _ascii(text: str) -> str:
    return "".join(sign if sign.isascii() else _numbered(sign) for sign in text.translate(PLAIN_SIGNS))


def _numbered(sign: str) -> str:
    units = sign.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
