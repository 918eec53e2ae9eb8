"""Pictures that a scan has read are not read again, unless they have changed."""

import os
from collections import Counter
from pathlib import Path

import pytest

from lorasmith.data import images
from lorasmith.data.seen import SeenFile, decoded, encoded, file_facts, unchanged
from lorasmith.data.types import Size
from lorasmith.demo.miniature import draw_pictures
from tests.end_to_end.workshop import Workshop


def test_the_way_back() -> None:
    seen = {"/data/\udce8 a.png": SeenFile(3, 1_700_000_000_123_456_789, Size(64, 96), "ab")}
    assert decoded(encoded(seen)) == seen


def test_a_file_is_known_by_its_length_and_its_time(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"123")
    facts = file_facts(path)
    assert facts is not None
    seen = {str(path): SeenFile(*facts, Size(1, 1), "ab")}
    assert unchanged(path, seen) == seen[str(path)]
    path.write_bytes(b"1234")
    os.utime(path, ns=(facts[1], facts[1]))
    assert unchanged(path, seen) is None
    path.write_bytes(b"456")
    os.utime(path, ns=(facts[1] + 1, facts[1] + 1))
    assert unchanged(path, seen) is None
    path.unlink()
    assert unchanged(path, seen) is None


def test_a_start_reads_a_new_picture_twice_and_one_that_is_cached_once(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once to check all its pixels before anything is written, once to encode it."""
    reads: Counter[str] = Counter()
    read = images._read

    def counted(path: Path) -> bytes:
        reads[str(path)] += 1
        return read(path)

    monkeypatch.setattr(images, "_read", counted)
    data = workshop.folder / "lora_train_set"
    draw_pictures(data, 2, seed=77, size=(64, 64), repeats=3)
    workshop.new(1)
    new = {str(path) for path in (data / "3_test").glob("*.png")}
    assert {reads[path] for path in new} == {2}
    reads.clear()
    workshop.go_on(1)
    assert set(reads.values()) == {1} and new < reads.keys()


def test_a_picture_that_changes_before_the_worker_looks_is_trained_on_as_it_is(workshop: Workshop) -> None:
    start = workshop.start_new(1)
    path = next(iter((workshop.folder / "lora_train_set").rglob("*.png")))
    other = next(one for one in (workshop.folder / "lora_train_set").rglob("*.png") if one != path)
    path.write_bytes(other.read_bytes())
    outcome = workshop.watch(start)
    examples = [example for event in outcome.events if hasattr(event, "examples") for example in event.examples]
    by_path = {example["path"]: example["sha256"] for example in examples}
    assert by_path[str(path)] == by_path[str(other)]
