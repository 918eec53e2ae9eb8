"""What a person should know about a dataset that can be trained on: nothing here stops a run.

One list for `plan`, `train`, the ledger and the report. Knows no sentences and no steps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorasmith.data.files import shown
from lorasmith.data.types import Example, Size

MAX_CUT_OFF = 0.25  # share of a picture
ENLARGED = 1.1  # a side may grow by a tenth before it is worth a word
NAMES = 3  # files that a finding names; `count` says how many there are


@dataclass(frozen=True, slots=True)
class Finding:
    """The sentence `finding.<code>`; `fields` hold JSON values: `count`, and `files`, the first names."""

    code: str
    fields: dict[str, Any]


def finding(code: str, names: Sequence[str | Path], **fields: Any) -> list[Finding]:
    """One finding about these files, by their names in the dataset; none where there are no files."""
    if not names:
        return []
    files = [shown(Path(name)) for name in names[:NAMES]]
    return [Finding(code, {"count": len(names), "files": files, **fields})]


def of_examples(examples: Sequence[Example], root: Path, *, uncaptioned: frozenset[Path]) -> list[Finding]:
    """What is odd about pictures and their words, in a fixed order; `uncaptioned` have no caption file."""

    def about(code: str, chosen: Iterable[Example], **fields: Any) -> list[Finding]:
        return finding(code, [example.image.relative_to(root) for example in chosen], **fields)

    without = [example for example in examples if example.image in uncaptioned]
    wordless = [example for example in without if not example.caption]
    found = about("no_words", wordless)
    found += about("no_caption_file", (example for example in without if example.caption))
    distinct = {example.caption for example in examples}
    if len(distinct) == 1 and len({example.image_sha256 for example in examples}) > 1 and distinct != {""}:
        found += about("captions_equal", examples, caption=examples[0].caption)
    found += _duplicates(examples, root)
    small = [example for example in examples if _growth(example) > ENLARGED]
    if small:
        smallest = min(small, key=lambda example: example.original.width * example.original.height).original
        found += about("enlarged", small, width=smallest.width, height=smallest.height)
    cut = [example for example in examples if _cut_off(example) > MAX_CUT_OFF]
    return found + about("cut_off", cut, percent=round(MAX_CUT_OFF * 100))


def of_long_captions(
    examples: Sequence[Example], root: Path, *, first_unseen: Callable[[str], str], limit: int
) -> list[Finding]:
    """Captions of which the text encoder does not see the end; `first_unseen` gives the first tag that is cut off, ""
    where all of a caption is seen."""
    tags: Mapping[str, str] = {caption: first_unseen(caption) for caption in {example.caption for example in examples}}
    cut = [example for example in examples if tags[example.caption]]
    names = [example.image.relative_to(root) for example in cut]
    return finding("captions_cut", names, limit=limit, tag=tags[cut[0].caption]) if cut else []


def _duplicates(examples: Sequence[Example], root: Path) -> list[Finding]:
    """`count` is of the pictures that are too many; `groups` holds the first files that are equal."""
    by_bytes: dict[str, list[str]] = defaultdict(list)
    for example in examples:
        by_bytes[example.image_sha256].append(shown(example.image.relative_to(root)))
    groups = [files for files in by_bytes.values() if len(files) > 1]
    if not groups:
        return []
    count = sum(map(len, groups)) - len(groups)
    shown_groups = [files[:NAMES] for files in groups[:NAMES]]
    return [Finding("duplicates", {"count": count, "groups": shown_groups, "more": len(groups) - len(shown_groups)})]


def _growth(example: Example) -> float:
    """How many times as wide the picture is made."""
    return example.resized.width / example.original.width


def _cut_off(example: Example) -> float:
    """The share of the picture that is not trained on."""
    return 1 - _pixels(example.bucket) / _pixels(example.resized)


def _pixels(size: Size) -> int:
    return size.width * size.height
