"""Findings: facts that a person should know about a dataset that can be trained on. None of them stops a run.

The same list serves `plan`, `train`, the ledger and the report. Knows no sentences and no steps.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorasmith.data.files import shown
from lorasmith.data.types import Example, Size

MAX_CUT_OFF = 0.25  # share of a picture
ENLARGED = 1.1  # a side may grow by a tenth before that is a finding
NAMES = 3  # files that a finding names; `count` says how many there are
CAPTION_SHOWN = 40  # characters
_LETTER = r"[^\W\d_\u0000-\u03ff\u1e00-\u1eff\uff21-\uff5a]"  # neither Latin nor Greek
# An ideograph is a word; other scripts lend single letters to faces of signs, which are tags.
_OTHER_SCRIPT = re.compile(rf"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]|{_LETTER}{{2}}")
_ESCAPED_BRACKET = re.compile(r"\\[()]")


@dataclass(frozen=True, slots=True)
class Finding:
    """The sentence `finding.<code>`; `fields` hold JSON values: `count`, and `files`, the first names."""

    code: str
    fields: dict[str, Any]


def finding(code: str, names: Sequence[str | Path], **fields: Any) -> list[Finding]:
    """A finding about these files, by their names in the dataset; no finding where there are no files."""
    if not names:
        return []
    files = [shown(Path(name)) for name in names[:NAMES]]
    return [Finding(code, {"count": len(names), "files": files, **fields})]


def of_examples(examples: Sequence[Example], root: Path, *, uncaptioned: frozenset[Path]) -> list[Finding]:
    """Findings about pictures and captions, in a fixed order; `uncaptioned` are pictures without a caption file."""

    def about(code: str, chosen: Iterable[Example], **fields: Any) -> list[Finding]:
        return finding(code, [example.image.relative_to(root) for example in chosen], **fields)

    learned = [example for example in examples if not example.is_regularisation]  # the others have class words
    without = [example for example in examples if example.image in uncaptioned]
    wordless = [example for example in without if not example.caption]
    found = about("no_words", wordless)
    worded = (example for example in learned if example.image in uncaptioned and example.caption)
    found += about("no_caption_file", worded)
    distinct = {example.caption for example in learned}
    if len(distinct) == 1 and len({example.image_sha256 for example in learned}) > 1 and distinct != {""}:
        found += about("captions_equal", learned, caption=learned[0].caption)
    found += _duplicates(examples, root)
    small = [example for example in examples if _growth(example) > ENLARGED]
    if small:
        smallest = min(small, key=lambda example: example.original.width * example.original.height).original
        found += about("enlarged", small, width=smallest.width, height=smallest.height)
    cut = [example for example in examples if _cut_off(example) > MAX_CUT_OFF]
    return found + about("cut_off", cut, percent=round(MAX_CUT_OFF * 100))


def of_mark(examples: Sequence[Example], root: Path, mark: str) -> list[Finding]:
    """The finding about a mark between tags that is in no caption."""
    if not mark or any(mark in example.text for example in examples):
        return []
    return finding("mark_in_no_caption", [example.image.relative_to(root) for example in examples], mark=mark)


def of_long_captions(
    examples: Sequence[Example], roots: Sequence[Path], *, first_unseen: Callable[[str], str], limit: int
) -> list[Finding]:
    """The finding about captions that are too long for the text encoder. `first_unseen` gives the first tag that is cut
    off a caption; "" where none is. `roots` are the folders of the subsets."""
    tags: Mapping[str, str] = {caption: first_unseen(caption) for caption in {example.caption for example in examples}}
    cut = [example for example in examples if tags[example.caption]]
    names = list(dict.fromkeys(example.image.relative_to(roots[example.subset]) for example in cut))
    return finding("captions_cut", names, limit=limit, tag=tags[cut[0].caption]) if cut else []


def of_escaped_brackets(examples: Sequence[Example], roots: Sequence[Path]) -> list[Finding]:
    r"""The finding about captions with brackets as prompts have them, `\(`: where captions have no weights, the
    backslash is text, which the programs that draw take out of a prompt. `roots` are the folders of the subsets."""
    escaped = [example for example in examples if has_escaped_bracket(example.caption)]
    names = list(dict.fromkeys(example.image.relative_to(roots[example.subset]) for example in escaped))
    return finding("brackets_escaped", names)


def of_other_scripts(examples: Sequence[Example], roots: Sequence[Path]) -> list[Finding]:
    """The finding about captions with letters of other scripts than the Latin one, for text encoders that have learned
    English only. `roots` are the folders of the subsets."""
    found = [example for example in examples if _OTHER_SCRIPT.search(example.caption)]
    names = list(dict.fromkeys(example.image.relative_to(roots[example.subset]) for example in found))
    return finding("captions_not_english", names, text=found[0].caption[:CAPTION_SHOWN]) if found else []


def has_escaped_bracket(text: str) -> bool:
    """Whether there is a backslash before a round bracket."""
    return bool(_ESCAPED_BRACKET.search(text))


def _duplicates(examples: Sequence[Example], root: Path) -> list[Finding]:
    """The finding about equal files: `count` is the number of superfluous pictures, `groups` the first equal files."""
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
    """The factor by which the picture is enlarged."""
    return example.resized.width / example.original.width


def _cut_off(example: Example) -> float:
    """The share of the picture that is not trained on."""
    return 1 - _pixels(example.bucket) / _pixels(example.resized)


def _pixels(size: Size) -> int:
    return size.width * size.height
