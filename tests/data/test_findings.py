"""What is said of pictures that can all be trained on: each finding alone, and none where all is well."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lorasmith.data.buckets import Cutting
from lorasmith.data.findings import of_long_captions, of_mark
from lorasmith.data.folder import PictureFolder, Scan, scan

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


def scanned(folder: Path, *, trigger_word: str = "", resolution: int = 64) -> Scan:
    return scan(
        PictureFolder(folder / "data"),
        Cutting(resolution, 8),
        trigger_word=trigger_word,
        skip_bad=False,
        check_pixels=False,
    )


def found(folder: Path, *, trigger_word: str = "", resolution: int = 64) -> dict[str, dict[str, Any]]:
    scan = scanned(folder, trigger_word=trigger_word, resolution=resolution)
    return {one.code: one.fields for one in scan.findings}


def test_nothing_of_note(put: Put, tmp_path: Path) -> None:
    put("2_cat/a.png", "a red thing")
    put("2_cat/b.png", "a blue thing", colour="blue")
    assert found(tmp_path) == {}


def test_one_picture_is_not_called_the_same_as_itself(put: Put, tmp_path: Path) -> None:
    put("a.png", "one")
    assert found(tmp_path) == {}


def test_captions_that_are_missing(put: Put, tmp_path: Path) -> None:
    put("a.png", None)
    put("b.png", "", colour="blue")
    put("3_cat/c.png", None, colour="green")
    put("d.png", "words", colour="white")
    assert found(tmp_path) == {
        "no_words": {"count": 1, "files": ["a.png"]},
        "captions_empty": {"count": 1, "files": ["b.txt"]},
        "no_caption_file": {"count": 1, "files": ["3_cat/c.png"]},
    }


def test_the_first_three_names_and_the_number_of_all(put: Put, tmp_path: Path) -> None:
    for number in range(5):
        put(f"{number}.png", None, size=(64, 64 + number))
    assert found(tmp_path) == {"no_words": {"count": 5, "files": ["0.png", "1.png", "2.png"]}}


def test_the_trigger_word_is_a_word(put: Put, tmp_path: Path) -> None:
    put("a.png", None)
    assert found(tmp_path, trigger_word="zorb") == {"no_caption_file": {"count": 1, "files": ["a.png"]}}


def test_captions_that_are_all_equal(put: Put, tmp_path: Path) -> None:
    put("a.png", "a thing")
    put("b.png", "a thing", colour="blue")
    row = found(tmp_path)["captions_equal"]
    assert (row["count"], row["caption"]) == (2, "a thing")
    put("c.png", "another", colour="green")
    assert found(tmp_path) == {}


def test_pictures_that_are_there_twice(put: Put, tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "2_cat/c.png"):
        put(name, name)
    put("d.png", "other", colour="blue")
    assert found(tmp_path)["duplicates"] == {"count": 2, "groups": [["2_cat/c.png", "a.png", "b.png"]], "more": 0}


def test_pictures_smaller_than_they_are_trained_at(put: Put, tmp_path: Path) -> None:
    """Trained at up to 512 x 512, a picture of 100 x 80 is made five times as large."""
    put("a.png", "small", size=(100, 80))
    put("b.png", "large", size=(600, 600))
    assert found(tmp_path, resolution=512) == {"enlarged": {"count": 1, "files": ["a.png"], "width": 100, "height": 80}}


def test_pictures_of_which_much_is_cut_off(put: Put, tmp_path: Path) -> None:
    put("a.png", "a banner", size=(1000, 64))
    put("b.png", "a square", colour="blue")
    row = found(tmp_path)["cut_off"]
    assert (row["count"], row["files"], row["percent"]) == (1, ["a.png"], 25)


def test_captions_of_which_the_end_is_not_seen(put: Put, tmp_path: Path) -> None:
    put("a.png", "short")
    put("b.png", "long, lost, gone", colour="blue")
    examples = scanned(tmp_path).examples

    def first_unseen(caption: str) -> str:
        return "lost" if len(caption) > 10 else ""

    (row,) = of_long_captions(examples, [tmp_path / "data"], first_unseen=first_unseen, limit=75)
    assert (row.code, row.fields) == ("captions_cut", {"count": 1, "files": ["b.png"], "limit": 75, "tag": "lost"})
    assert of_long_captions(examples, [tmp_path / "data"], first_unseen=lambda _: "", limit=75) == []


def test_a_mark_that_is_in_no_caption(put: Put, tmp_path: Path) -> None:
    put("a.png", "red, thing")
    put("b.png", "blue, thing", colour="blue")
    examples = scanned(tmp_path).examples
    assert of_mark(examples, tmp_path / "data", "") == of_mark(examples, tmp_path / "data", "lue,") == []
    (row,) = of_mark(examples, tmp_path / "data", "|||")
    assert (row.code, row.fields) == (
        "mark_in_no_caption",
        {"count": 2, "files": ["a.png", "b.png"], "mark": "|||"},
    )


def test_regularisation_pictures_need_no_captions(tmp_path: Path, put: Put) -> None:
    for number in range(3):
        put(f"1_dog/{number}.png", None, colour=("red", "green", "blue")[number])
    folder = PictureFolder(tmp_path / "data", is_regularisation=True)
    found = scan(folder, Cutting(128, 8), trigger_word="", skip_bad=False, check_pixels=False)
    assert {example.caption for example in found.examples} == {"dog"}
    assert not {one.code for one in found.findings} & {"no_caption_file", "captions_equal"}
    plain = scan(PictureFolder(tmp_path / "data"), Cutting(128, 8), trigger_word="", skip_bad=False, check_pixels=False)
    assert {one.code for one in plain.findings} >= {"no_caption_file", "captions_equal"}
