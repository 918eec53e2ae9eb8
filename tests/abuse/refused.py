"""What a refusal must be: a named error with exit code 2 (or 4), a sentence in both languages, and nothing changed."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorasmith.errors import ExitCode, InputError
from lorasmith.messages import LANGUAGES
from lorasmith.ui.translator import Translator

# Neither may stand in what is printed: they move the cursor or turn the direction of writing.
UNSHOWABLE = [chr(one) for one in (*range(9), *range(11, 32), 0x7F, *range(0x80, 0xA0), *range(0x202A, 0x202F))]


def refused(folder: Path, start: Callable[[], Any], code: str, *, exit_code: int = ExitCode.BAD_INPUT) -> InputError:
    """`start` raises this InputError, everything below `folder` is what it was, and there is something to be read."""
    before = snapshot(folder)
    with pytest.raises(InputError) as caught:
        start()
    assert snapshot(folder) == before
    assert (caught.value.code, caught.value.exit_code) == (code, exit_code)
    told = {language: sentences(language, code, caught.value.fields) for language in LANGUAGES}
    assert len(set(told.values())) == len(LANGUAGES)
    return caught.value


def sentences(language: str, code: str, fields: dict[str, Any]) -> str:
    """What is printed about an error: of a bounded length, and nothing that a terminal obeys."""
    text = "\n".join(Translator(language).error(code, fields))
    assert text.strip()
    text.encode()
    return text


def snapshot(folder: Path) -> dict[bytes, tuple[Any, ...]]:
    """Every entry below `folder`: kind, size and date, and the bytes of files; links are not followed."""
    found: dict[bytes, tuple[Any, ...]] = {}
    for root, folders, files in os.walk(os.fsencode(folder)):
        for name in (*folders, *files):
            path = os.path.join(root, name)  # noqa: PTH118 - names that are no text
            status = os.lstat(path)
            content = ""
            if stat.S_ISREG(status.st_mode) and status.st_size < 2**26:
                with open(path, "rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
            found[path] = (status.st_mode, status.st_size, status.st_mtime_ns, content)
    return found
