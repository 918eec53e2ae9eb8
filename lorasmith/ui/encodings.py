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
from lorasmith.ui.translator import Translator

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


def translator_for(language: str) -> Translator:
    """The sentences in that language, or in English where a stream cannot show it, with a line that says so."""
    encoding = next((one for one in map(encoding_of, (sys.stdout, sys.stderr)) if not can_show(one, language)), "")
    if not encoding:
        return Translator(language)
    words = Translator(FALLBACK, asked=language)
    print(words.say("message.language_not_shown", encoding=encoding), file=sys.stderr)
    return words


def shows_everything(stream: TextIO) -> bool:
    """Whether the stream takes every character there is."""
    return codecs.lookup(encoding_of(stream)).name.startswith("utf")


def in_own_bytes(name: str) -> str:
    """A name that a stream of ASCII passes on by its bytes in UTF-8: terminals show UTF-8, whatever the locale says."""
    return name.encode().decode("ascii", "surrogateescape")


def encoding_of(stream: TextIO | None) -> str:
    """The name of a stream's encoding; UTF-8 for one that has none."""
    return getattr(stream, "encoding", None) or "utf-8"


def can_show(encoding: str, language: str) -> bool:
    """Whether the encoding has every letter of the language's sentences; other signs have a replacement."""
    if codecs.lookup(encoding).name.startswith("utf"):
        return True
    letters = {sign for key in keys(language) for sign in template(language, key) if sign.isalpha()}
    try:
        "".join(letters).encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _replaced(error: UnicodeError) -> tuple[bytes, int]:
    """In place of what a stream cannot encode: a plain sign, or the number of a character as JSON has it.

    A file name that a locale of ASCII could not decode goes out by its own bytes where they are UTF-8.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    parts = UNDECODED.split(error.object[error.start : error.end])
    return b"".join(_bytes_of(part, error.encoding) for part in parts), error.end


def _bytes_of(part: str, encoding: str) -> bytes:
    """Of a part that is undecoded as a whole, or not at all."""
    if UNDECODED.match(part):
        data = part.encode("ascii", "surrogateescape")
        try:
            text = data.decode("utf-8")
            return data if encoding in ("ascii", "utf-8") else text.encode(encoding)
        except UnicodeError:
            pass
    return _ascii(part).encode(encoding)


def _ascii(text: str) -> str:
    return "".join(sign if sign.isascii() else _numbered(sign) for sign in text.translate(PLAIN_SIGNS))


def _numbered(sign: str) -> str:
    units = sign.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
