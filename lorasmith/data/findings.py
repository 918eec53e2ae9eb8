"""What a person may want to know about pictures that can all be trained on: nothing here stops a run.

Only looks at what a scan found and at the names in the folders. Knows no sentences and no steps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorasmith.data import captions
from lorasmith.data.files import shown
from lorasmith.data.types import Example, Size

MOST_CUT_OFF = 0.25  # share of a picture
ENLARGED = 1.1  # a side may grow by a tenth before it is worth a word


@dataclass(frozen=True, slots=True)
class Finding:
    """The sentence `finding.<code>`; `fields` hold JSON values, `files` among them: all that it is about."""

    code: str
    fields: dict[str, Any]


def findings(examples: Sequence[Example]) -> tuple[Finding, ...]:
    """Everything of note, in a fixed order; none for pictures that are as they should be."""
    found: list[Finding] = []
    wordless = [one for one in examples if not one.caption]
    without_file = [one for one in _without_caption_file(examples) if one.caption]
    _add(found, "no_words", wordless)
    _add(found, "no_caption_file", without_file)
    distinct = {one.caption for one in examples}
    if len(distinct) == 1 and len({one.image_sha256 for one in examples}) > 1 and not wordless:
        _add(found, "captions_equal", examples, caption=examples[0].caption)
    _add_duplicates(found, examples)
    small = [one for one in examples if _growth(one) > ENLARGED]
    if small:
        smallest = min(small, key=lambda one: one.original.width * one.original.height).original
        _add(found, "enlarged", small, width=smallest.width, height=smallest.height)
    _add(found, "cut_off", [one for one in examples if _cut_off(one) > MOST_CUT_OFF], percent=round(MOST_CUT_OFF * 100))
    return tuple(found)


def _add(found: list[Finding], code: str, about: Sequence[Example], **fields: Any) -> None:
    if about:
        files = [shown(one.image) for one in about]
        found.append(Finding(code, {"count": len(files), "files": files, **fields}))


def _add_duplicates(found: list[Finding], examples: Sequence[Example]) -> None:
    """`count` is of the pictures that are too many; `groups` holds the files that are equal."""
    by_bytes: dict[str, list[str]] = defaultdict(list)
    for one in examples:
        by_bytes[one.image_sha256].append(shown(one.image))
    groups = [files for files in by_bytes.values() if len(files) > 1]
    if groups:
        files = [file for group in groups for file in group]
        count = len(files) - len(groups)
        found.append(Finding("duplicates", {"count": count, "files": files, "groups": groups}))


def _without_caption_file(examples: Iterable[Example]) -> list[Example]:
    beside: dict[Path, dict[str, str]] = {}
    lacking = []
    for one in examples:
        folder = one.image.parent
        if folder not in beside:
            beside[folder] = captions.caption_files(entry.name for entry in folder.iterdir())
        if captions.find_caption(one.image.name, beside[folder]) is None:
            lacking.append(one)
    return lacking


def _growth(one: Example) -> float:
    """How many times as wide the picture is made."""
    return one.resized.width / one.original.width


def _cut_off(one: Example) -> float:
    """The share of the picture that is not trained on."""
    return 1 - _pixels(one.bucket) / _pixels(one.resized)


def _pixels(size: Size) -> int:
    return size.width * size.height
