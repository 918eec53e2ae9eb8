"""The pictures of a run: what it was trained on, and the samples of its evaluations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lorasmith.reading.fold import Curves
from lorasmith.runs.events import RunStarted


@dataclass(frozen=True, slots=True)
class Picture:
    """An example of the newest start, or an example that only an earlier start trained on."""

    path: str
    times_seen: int
    repeats: int | None = None
    bucket: tuple[int, ...] = ()  # width, height in pixels
    sha256: str = ""
    is_used: bool = True  # False: the newest start does not train on it


@dataclass(frozen=True, slots=True)
class Data:
    """The training pictures."""

    folder: str
    pictures: tuple[Picture, ...]
    held_out: tuple[str, ...]
    buckets: tuple[tuple[int, int, int], ...]  # width, height, pictures
    batches_per_epoch: int
    epoch: int  # of the newest step

    @property
    def times_seen(self) -> list[int]:
        return [picture.times_seen for picture in self.pictures if picture.is_used]


@dataclass(frozen=True, slots=True)
class SampleRow:
    """The samples of one caption and seed, by step."""

    example: str | None  # path of the picture they are compared with
    prompt: str
    seed: int | None
    baseline: dict[str, Any] | None  # the sample with the adapter off
    by_step: dict[int, dict[str, Any]]


def data_of(starts: Sequence[RunStarted], curves: Curves) -> Data:
    """Returns the pictures of the newest start, each with how often the steps that count have shown it."""
    paths = {start.attempt: _numbered(start.examples) for start in starts}
    shown = Counter((point.attempt, number) for point in curves.points for number in point.example_ids)
    seen: Counter[tuple[str, int]] = Counter()
    for (attempt, number), times in shown.items():
        known = paths.get(attempt, [])
        if 0 <= number < len(known):
            seen[known[number]] += times
    newest = starts[-1] if starts else None
    examples = newest.examples if newest else []
    pictures = [
        Picture(
            path=path[0],
            times_seen=seen.pop(path, 0),
            repeats=example.get("repeats"),
            bucket=tuple(example.get("bucket", ())),
            sha256=str(example.get("sha256", "")),
        )
        for path, example in zip(_numbered(examples), examples, strict=True)
    ]
    pictures += [Picture(path, times, is_used=False) for (path, _), times in sorted(seen.items())]
    buckets = Counter(picture.bucket for picture in pictures if len(picture.bucket) == 2)
    return Data(
        folder=_folders(newest.settings.get("dataset", {})) if newest else "",
        pictures=tuple(pictures),
        held_out=tuple(newest.held_out) if newest else (),
        buckets=tuple((width, height, count) for (width, height), count in sorted(buckets.items())),
        batches_per_epoch=newest.batches_per_epoch if newest else 0,
        epoch=curves.points[-1].epoch if curves.points else 0,
    )


def _numbered(examples: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """The path of each example, numbered from 0: two subsets may have a picture in common."""
    counted: Counter[str] = Counter()
    found = []
    for example in examples:
        path = str(example.get("path", ""))
        found.append((path, counted[path]))
        counted[path] += 1
    return found


def _folders(dataset: Mapping[str, Any]) -> str:
    """The folders of pictures in the settings of a start."""
    own = str(dataset.get("folder", ""))
    tables = [table for table in dataset.get("subsets") or [] if isinstance(table, Mapping)]
    names = [str(table.get("data", own)) for table in tables] or [own, str(dataset.get("reg_folder") or "")]
    return ", ".join(dict.fromkeys(name for name in names if name))


def samples_of(curves: Curves) -> tuple[SampleRow, ...]:
    """Returns a row for each picture, caption and seed, in the order of the newest evaluation that has it."""
    rows: dict[tuple[str, str, str], SampleRow] = {}
    for evaluation in [*reversed(curves.evaluations), *([curves.baseline] if curves.baseline else [])]:
        for sample in evaluation.samples:
            row = rows.get(sample_key(sample))
            if row is None:
                row = SampleRow(sample.get("example"), str(sample.get("prompt", "")), sample.get("seed"), None, {})
            if evaluation.is_control:
                row = replace(row, baseline=sample)
            else:
                row = replace(row, by_step={evaluation.step: sample, **row.by_step})
            rows[sample_key(sample)] = row
    return tuple(rows.values())


def sample_key(sample: Mapping[str, Any]) -> tuple[str, str, str]:
    """Returns what comparable samples of different steps share: the picture, the caption and the seed."""
    return str(sample.get("example") or ""), str(sample.get("prompt") or ""), str(sample.get("seed"))
