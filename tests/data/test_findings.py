"""What is told of pictures that can all be trained on: each finding alone, and none where all is well."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from lorasmith.data.findings import findings
from lorasmith.data.folder import scan
from lorasmith.data.types import Example

Put = Callable[..., Path]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    def put(name: str, words: str | None, *, size: tuple[int, int] = (64, 64), colour: str = "red") -> Path:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).save(path)
        if words is not None:
            path.with_suffix(".txt").write_text(words)
        return path

    return put


def found(folder: Path, *, trigger_word: str = "") -> dict[str, dict[str, object]]:
    examples: tuple[Example, ...] = scan(
        folder / "data", resolution=64, size_multiple=8, trigger_word=trigger_word, skip_bad=False, check_pixels=False
    ).examples
    return {one.code: one.fields for one in findings(examples)}


def test_nothing_of_note(put: Put, tmp_path: Path) -> None:
    put("2_cat/a.png", "a red thing")
    put("2_cat/b.png", "a blue thing", colour="blue")
    assert found(tmp_path) == {}


def test_one_picture_is_not_called_the_same_as_itself(put: Put, tmp_path: Path) -> None:
    put("a.png", "one")
    assert found(tmp_path) == {}


def test_captions_that_are_missing(put: Put, tmp_path: Path) -> None:
    lacking, empty = put("a.png", None), put("b.png", "", colour="blue")
    named = put("3_cat/c.png", None, colour="green")
    put("d.png", "words", colour="white")
    assert found(tmp_path) == {
        "no_words": {"count": 2, "files": sorted([str(lacking), str(empty)])},
        "no_caption_file": {"count": 1, "files": [str(named)]},
    }


def test_the_trigger_word_is_a_word(put: Put, tmp_path: Path) -> None:
    lacking = put("a.png", None)
    assert found(tmp_path, trigger_word="zorb") == {"no_caption_file": {"count": 1, "files": [str(lacking)]}}


def test_captions_that_are_all_equal(put: Put, tmp_path: Path) -> None:
    put("a.png", "a thing")
    put("b.png", "a thing", colour="blue")
    row = found(tmp_path)["captions_equal"]
    assert (row["count"], row["caption"]) == (2, "a thing")
    put("c.png", "another", colour="green")
    assert found(tmp_path) == {}


def test_pictures_that_are_there_twice(put: Put, tmp_path: Path) -> None:
    equal = [put(name, name) for name in ("a.png", "b.png", "2_cat/c.png")]
    put("d.png", "other", colour="blue")
    row = found(tmp_path)["duplicates"]
    assert row["count"] == 2
    assert [set(group) for group in row["groups"]] == [{str(path) for path in equal}]  # type: ignore[attr-defined]


def test_pictures_smaller_than_they_are_trained_at(put: Put, tmp_path: Path) -> None:
    """Trained at up to 512 x 512, a picture of 100 x 80 is made five times as large."""
    small = put("a.png", "small", size=(100, 80))
    put("b.png", "large", size=(600, 600))
    examples = scan(
        tmp_path / "data", resolution=512, size_multiple=64, trigger_word="", skip_bad=False, check_pixels=False
    ).examples
    (row,) = findings(examples)
    assert row.code == "enlarged"
    assert row.fields == {"count": 1, "files": [str(small)], "width": 100, "height": 80}


def test_pictures_of_which_much_is_cut_off(put: Put, tmp_path: Path) -> None:
    long = put("a.png", "a banner", size=(1000, 64))
    put("b.png", "a square", colour="blue")
    row = found(tmp_path)["cut_off"]
    assert (row["count"], row["files"], row["percent"]) == (1, [str(long)], 25)
