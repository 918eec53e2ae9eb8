"""What names say: kinds of files, folders with repeats, and which caption belongs to which picture."""

from __future__ import annotations

import pytest
from PIL import Image

from lorasmith.data import names


@pytest.mark.parametrize(
    ("files", "picture", "found"),
    [
        (["a.png"], "a.png", None),
        (["a.txt"], "b.png", None),
        (["a.caption"], "a.png", "a.caption"),
        (["a.caption", "a.txt"], "a.png", "a.txt"),
        (["a.TXT"], "a.JPG", "a.TXT"),
        (["a.Caption"], "a.png", "a.Caption"),
        (["a.TXT", "a.txt"], "a.png", "a.TXT"),  # one of both, always the same
        (["a.b.txt", "a.txt"], "a.b.png", "a.b.txt"),
        (["cafe\u0301.txt"], "caf\u00e9.png", "cafe\u0301.txt"),
        (["caf\u00e9.txt"], "cafe\u0301.png", "caf\u00e9.txt"),
        (["cafe\u0301.txt", "caf\u00e9.caption"], "caf\u00e9.png", "cafe\u0301.txt"),
        (["a.text"], "a.png", None),
        (["a.png.txt"], "a.png", "a.png.txt"),
        (["a.png.txt", "a.txt"], "a.png", "a.txt"),
        (["A.txt"], "a.png", "A.txt"),
        (["P0.TXT"], "p0.png", "P0.TXT"),
        (["a.txt.txt"], "a.png", "a.txt.txt"),
        (["a.png.txt"], "a.jpg", "a.png.txt"),  # of the picture before it was converted
        (["a .txt"], "a.png", "a .txt"),
        (["a (1).txt"], "a.png", None),
    ],
)
def test_which_caption_file_a_picture_has(files: list[str], picture: str, found: str | None) -> None:
    assert names.paired([picture], files).captions.get(picture) == found
    assert names.paired([picture], reversed(files)).captions.get(picture) == found


def test_each_picture_has_its_own_where_there_are_two() -> None:
    pictures = ["a.png", "A.png", "a.jpg"]
    own = names.paired(pictures, ["a.png.txt", "A.png.txt", "a.jpg.txt"])
    assert own.captions == {one: f"{one}.txt" for one in pictures}
    assert names.paired(["a.png", "A.png"], ["a.txt"]).captions == {"a.png": "a.txt"}
    assert names.paired(["a.png", "a.jpg"], ["a.txt"]).captions == {"a.png": "a.txt", "a.jpg": "a.txt"}


def test_caption_files_that_are_left_over() -> None:
    found = names.paired(["a.png"], ["a.txt", "a.caption", "b.txt", "README.txt", "License.txt", "c.json"])
    assert found.unused == ("a.caption", "b.txt")


def test_other_files_that_may_be_captions() -> None:
    common = names.common_names(["a.png"])
    meant = ["a.json", "A.PNG.json", "metadata.json", "final_prompts.parquet", "a.docx"]
    assert [one for one in [*meant, "b.json", "a.npz", "a.txt"] if names.may_hold_captions(one, common)] == meant
    assert not names.may_hold_captions("metadata.jsonl", frozenset())


def test_what_pillow_reads_is_a_picture_by_its_extension() -> None:
    """Every extension of a format that is opened, but for those of layers, films and animations."""
    Image.init()
    formats = {"PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM"}
    theirs = {extension for extension, kind in Image.registered_extensions().items() if kind in formats}
    assert theirs - {".avifs", ".pfm"} == set(names.PICTURES)


def test_no_kind_is_two_things() -> None:
    plugins = [one for plugin in names.PLUGINS for one in plugin.extensions]
    every = [*names.PICTURES, *plugins, *names.UNREADABLE, *names.CAPTIONS, *names.OTHER_WORDS]
    assert len(every) == len(set(every))
    assert all(one == one.lower() and one.startswith(".") for one in every)


@pytest.mark.parametrize(
    "name",
    [
        *("__MACOSX", "@eaDir", "#recycle", "lost+found", "._x.png", "Thumbs.db", ".DS_Store", "desktop.ini"),
        *("Icon\r", "$RECYCLE.BIN", "System Volume Information", ".ipynb_checkpoints", "SYNOPHOTO_THUMB_XL.jpg"),
    ],
)
def test_what_systems_leave_behind(name: str) -> None:
    assert names.is_of_system(name)


@pytest.mark.parametrize("name", ["a.png", "10_zorb", "thumbs", "recycle"])
def test_what_people_bring(name: str) -> None:
    assert not names.is_of_system(name)


@pytest.mark.parametrize(
    ("name", "right", "says_repeats"),
    [
        ("test_10", "10_test", True),
        ("10 zorb", "10_zorb", True),
        ("10-zorb", "10_zorb", True),
        ("10x_zorb", "10_zorb", True),
        ("\uff11\uff10_zorb", "10_zorb", True),  # typed with a Chinese keyboard
        ("raw", "1_raw", False),
        ("10", "1_10", False),
    ],
)
def test_the_name_a_folder_needs(name: str, right: str, says_repeats: bool) -> None:
    assert names.right_folder(name) == (right, says_repeats)


def test_kinds_are_counted() -> None:
    assert names.kinds(["a.CR2", "b.cr2", "c.psd"]) == ".cr2 \u00d72, .psd"


def test_captions_of_an_extension() -> None:
    files = ["a.txt", "a.wd14.txt", "A.WD14.TXT", "b.png.wd14.txt", "c.txt"]
    found = names.paired(["a.png", "b.png", "c.png"], files, (".wd14.txt",))
    assert found == names.Paired({"a.png": "a.wd14.txt", "b.png": "b.png.wd14.txt"}, ("A.WD14.TXT",))
