"""Adapts the output to the encodings of the standard streams: English for a stream that cannot show the language, and
replacements for single characters that it cannot encode.
"""

from __future__ import annotations

import codecs
import io
import re
import sys
from typing import TextIO

from lorasmith.messages import FALLBACK, keys, template
from lorasmith.ui.translator import Translator

# Replacements in ASCII for characters of the sentences.
PLAIN_SIGNS = str.maketrans({"…": "...", "–": "-", "—": "-", "−": "-", "×": "x", "±": "+-", "·": "-", "✓": "ok"})
HANDLER = "lorasmith"
UNDECODED = re.compile("([\udc80-\udcff]+)")  # bytes of file names that the locale cannot decode


def make_streams_lenient() -> None:
    """Makes the standard streams replace characters that they cannot encode, instead of raising an error."""
    codecs.register_error(HANDLER, _replaced)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def translator_for(language: str) -> Translator:
    """The translator of a language, or of English if a stream cannot show that language; a line on stderr says so."""
    lacking = [name for name in map(encoding_of, (sys.stdout, sys.stderr)) if not can_show(name, language)]
    if not lacking:
        return Translator(language)
    words = Translator(FALLBACK, asked=language)
    print(words.say("message.language_not_shown", encoding=lacking[0]), file=sys.stderr)
    return words


def shows_everything(stream: TextIO) -> bool:
    """Whether the stream can encode every character."""
    return codecs.lookup(encoding_of(stream)).name.startswith("utf")


def in_own_bytes(name: str) -> str:
    """A name as its UTF-8 bytes for a stream of ASCII: terminals show UTF-8, whatever the locale is."""
    return name.encode().decode("ascii", "surrogateescape")


def encoding_of(stream: TextIO | None) -> str:
    """The name of a stream's encoding; UTF-8 for a stream without one."""
    return getattr(stream, "encoding", None) or "utf-8"


def can_show(encoding: str, language: str) -> bool:
    """Whether the encoding has every letter of the language's sentences; other characters have a replacement."""
    if codecs.lookup(encoding).name.startswith("utf"):
        return True
    letters = {sign for key in keys(language) for sign in template(language, key) if sign.isalpha()}
    try:
        "".join(letters).encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _replaced(error: UnicodeError) -> tuple[bytes, int]:
    """Handler of encoding errors: returns a replacement in ASCII, or the escape of the character as in JSON.

    A file name that a locale of ASCII could not decode is written as its own bytes if they are UTF-8.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    parts = UNDECODED.split(error.object[error.start : error.end])
    return b"".join(_bytes_of(part, error.encoding) for part in parts), error.end


def _bytes_of(part: str, encoding: str) -> bytes:
    """The original bytes of a part of a name that is wholly undecoded."""
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
