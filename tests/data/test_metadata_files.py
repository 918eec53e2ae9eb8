import json
from pathlib import Path

import pytest

from lorasmith.config import CaptionsConfig
from lorasmith.data.buckets import Cutting
from lorasmith.data.folder import PictureFolder, Scan, repeats_in, scan
from lorasmith.data.metadata_files import Words, read_metadata, text_of
from lorasmith.errors import DatasetError
from tests.data.drawing import put_picture


def scanned(folder: Path, metadata: Path, captioning: CaptionsConfig | None = None, repeats: int = 1) -> Scan:
    source = PictureFolder(folder, repeats, metadata=metadata, captioning=captioning or CaptionsConfig())
    assert set(repeats_in(source)) == {repeats}
    return scan(source, Cutting(128, 32), trigger_word="", skip_bad=False, check_pixels=True)


# The texts are what sd-scripts joins (commit 48d368fa), but the last of each, whose tags it drops.
@pytest.mark.parametrize(
    ("caption", "tags", "plain", "with_wildcards"),
    [
        ("cap a", "t1, t2", "cap a,t1, t2", "cap a,t1, t2"),
        ("cap a", "", "cap a", "cap a"),
        ("one\ntwo", "t", "one two,t", "one,t\ntwo,t"),
        ("one\n\n two ", "t\nu", "one two,t u", "one,t,u\ntwo,t,u"),
        ("", "", "", ""),
        ("", "t1, t2", "t1, t2", "t1, t2"),
    ],
)
def test_captions_and_tags_are_joined(caption: str, tags: str, plain: str, with_wildcards: str) -> None:
    words = Words(caption, tags)
    assert text_of(words, ",", has_wildcards=False) == plain
    assert text_of(words, ",", has_wildcards=True) == with_wildcards


def test_the_file_says_which_pictures_and_which_words(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "deep/c.png", "not named.png"):
        put_picture(tmp_path / "set" / name)
    (tmp_path / "set" / "a.txt").write_text("not read")
    rows = {
        "b.png": {"caption": "cap", "tags": "t1, t2", "image_size": [9, 9]},
        str(tmp_path / "set" / "a.png"): {"tags": "t3"},
        "deep\\c.png": {},
    }
    (tmp_path / "meta.json").write_text("\ufeff" + json.dumps(rows), encoding="utf-8")
    found = scanned(tmp_path / "set", tmp_path / "meta.json", repeats=3)
    root = tmp_path / "set"
    named = [(one.image.relative_to(root).as_posix(), one.caption, one.repeats) for one in found.examples]
    assert named == [
        ("a.png", "t3", 3),
        ("b.png", "cap,t1, t2", 3),
        ("deep/c.png", "", 3),
    ]
    assert [(one.code, one.fields["files"]) for one in found.findings if one.code == "no_words"] == [
        ("no_words", ["deep/c.png"])
    ]
    lines = [{"image_path": "b.png", "caption": "one"}, {"image_path": "a.png", "tags": "two"}]
    (tmp_path / "meta.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert [one.caption for one in scanned(tmp_path / "set", tmp_path / "meta.jsonl").examples] == ["two", "one"]


def test_the_separator_is_that_of_captions(tmp_path: Path) -> None:
    put_picture(tmp_path / "a.png")
    (tmp_path / "meta.json").write_text('{"a.png": {"caption": "one", "tags": "two"}}')
    (one,) = scanned(tmp_path, tmp_path / "meta.json", CaptionsConfig(separator=";")).examples
    assert one.caption == "one;two"


def test_names_may_lack_their_endings(tmp_path: Path) -> None:
    """As `merge_captions_to_metadata.py` writes them unless it is asked for full paths."""
    put_picture(tmp_path / "set" / "a.b.png")
    (tmp_path / "meta.json").write_text(json.dumps({"a.b": {"caption": "cat"}}))
    assert read_metadata(tmp_path / "meta.json", tmp_path / "set") == {"a.b.png": Words("cat", "")}


def test_a_picture_that_is_missing_is_listed(tmp_path: Path) -> None:
    put_picture(tmp_path / "a.png")
    (tmp_path / "meta.json").write_text('{"a.png": {}, "b.png": {}}')
    with pytest.raises(DatasetError) as caught:
        scanned(tmp_path, tmp_path / "meta.json")
    assert [(one["reason"], Path(one["path"]).name) for one in caught.value.fields["problems"]] == [
        ("file_missing", "b.png")
    ]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (None, "metadata_missing"),
        ("{", "metadata_unreadable"),
        ("[1]", "metadata_unreadable"),
        ('{"a.png": 1}', "metadata_unreadable"),
        ('{"a.png": {"caption": 1}}', "metadata_unreadable"),
        ('{"a": ' * 100_000, "metadata_unreadable"),
        ('{"../a.png": {}}', "metadata_outside"),
        ('{"/elsewhere/a.png": {}}', "metadata_outside"),
    ],
)
def test_files_that_are_none(tmp_path: Path, text: str | None, code: str) -> None:
    file = tmp_path / "meta.json"
    if text is not None:
        file.write_text(text)
    (tmp_path / "set").mkdir()
    with pytest.raises(DatasetError) as caught:
        read_metadata(file, tmp_path / "set")
    assert caught.value.code == code


def test_a_line_without_a_name(tmp_path: Path) -> None:
    (tmp_path / "meta.jsonl").write_text('{"image_path": "a.png"}\n{"caption": "b"}\n')
    with pytest.raises(DatasetError) as caught:
        read_metadata(tmp_path / "meta.jsonl", tmp_path)
    assert "line 2" in caught.value.fields["reason"]
