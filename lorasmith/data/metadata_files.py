"""Reads the metadata files of sd-scripts: a JSON table, or JSON lines, of pictures with their captions and tags.

The captions in them take the place of caption files. Sizes in them are not believed: pictures are read.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lorasmith.data import names
from lorasmith.data.captions import LINE_END, cleaned
from lorasmith.data.files import BadFileError, read_whole, shown
from lorasmith.errors import DatasetError

MAX_BYTES = 1 << 28


class Words(NamedTuple):
    """The words of a picture."""

    caption: str
    tags: str


def read_metadata(path: Path, root: Path) -> dict[str, Words]:
    """The words of each picture, by its name relative to the folder `root`, sorted.

    Raises:
        DatasetError: `metadata_missing`, `metadata_unreadable`; `metadata_outside`, a picture is not in the folder.
    """
    try:
        text = read_whole(path, most=MAX_BYTES).decode("utf-8-sig")
        rows = list(_lines(text) if path.suffix.lower() == ".jsonl" else _table(text))
    except BadFileError as error:
        if error.problem.reason == "file_missing":
            raise DatasetError("metadata_missing", file=shown(path)) from None
        raise
    except (ValueError, RecursionError) as error:  # no UTF-8 or no JSON among them
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise DatasetError("metadata_unreadable", file=shown(path), reason=reason) from None
    found = {_relative(name, path, root): words for name, words in rows}
    return dict(sorted(found.items(), key=lambda row: (unicodedata.normalize("NFC", row[0]), row[0])))


def text_of(words: Words, separator: str, *, has_wildcards: bool) -> str:
    """The words as the text of a caption file: the caption and the tags, joined by the separator without a space as in
    sd-scripts. With wildcards every line of the caption gets the tags."""
    lines = [line for line in map(cleaned, re.split(r"\r\n|\r|\n", words.caption)) if line]
    if not has_wildcards:
        return separator.join(part for part in (" ".join(lines), cleaned(words.tags)) if part)
    tags = cleaned(re.sub(r"\r\n|\r|\n", separator, words.tags))
    return LINE_END.join(separator.join(part for part in (line, tags) if part) for line in lines or [""])


def _table(text: str) -> Iterator[tuple[str, Words]]:
    plain = json.loads(text)
    if not isinstance(plain, dict):
        raise ValueError("no table of pictures")
    for name, row in plain.items():
        yield name, _words(name, row)


def _lines(text: str) -> Iterator[tuple[str, Words]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            row = json.loads(line)
            name = row.get("image_path") if isinstance(row, dict) else None
            if not isinstance(name, str):
                raise ValueError(f"line {number}: no image_path")
            yield name, _words(name, row)


def _words(name: str, row: Any) -> Words:
    if not isinstance(row, Mapping):
        raise ValueError(f"{name}: no table")
    values = [row.get(key) for key in ("caption", "tags")]
    if not all(value is None or isinstance(value, str) for value in values):
        raise ValueError(f"{name}: a caption must be text")
    return Words(*(value or "" for value in values))


def _relative(name: str, file: Path, root: Path) -> str:
    """The name of a picture in the folder; backslashes are separators, as the file may come from Windows."""
    path = _with_ending(root / name.replace("\\", "/"))
    for folder in (root, root.absolute(), root.resolve()):
        if path.is_relative_to(folder) and ".." not in path.parts:
            return path.relative_to(folder).as_posix()
    raise DatasetError("metadata_outside", file=shown(file), picture=shown(Path(name)), folder=shown(root))


def _with_ending(path: Path) -> Path:
    """The picture of a name: sd-scripts' own tools write names without their endings."""
    if not path.name:
        return path
    found = (path, *(path.with_name(path.name + ending) for ending in sorted(names.PICTURES)))
    try:
        return next((picture for picture in found if picture.is_file()), path)
    except OSError:  # a name that is too long, for example: it is listed as missing
        return path
