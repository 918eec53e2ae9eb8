"""Everything in a dataset folder that is not trained on is named, once, and what systems leave there is not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from lorasmith.data import names
from lorasmith.data.buckets import Cutting
from lorasmith.data.folder import PictureFolder, repeats_in, scan
from lorasmith.errors import DatasetError
from tests.data.drawing import put_picture


def put(folder: Path, *files: str) -> None:
    """Pictures where the name is one of a picture, else files of a word."""
    for number, name in enumerate(files):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if names.extension_of(name) in (".png", ".jpg"):
            put_picture(path, number=number)
        else:
            path.write_text(f"words {number}", encoding="utf-8")


def found(folder: Path) -> dict[str, dict[str, Any]]:
    scanned = scan(PictureFolder(folder), Cutting(64, 8), trigger_word="", skip_bad=False, check_pixels=False)
    dataset = {"no_words", "no_caption_file", "cut_off", "enlarged", "captions_equal"}
    return {one.code: one.fields for one in scanned.findings if one.code not in dataset}


def refused(folder: Path) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        found(folder)
    with pytest.raises(DatasetError, match=caught.value.code):
        repeats_in(PictureFolder(folder))
    return caught.value


# -- kinds -----------------------------------------------------------------------------------------


def test_files_that_no_picture_is_read_from(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "a.txt", "DSC1.NEF", "3_x/b.png", "3_x/b.txt", "3_x/c.psd", "3_x/d.mp4", "3_x/d.txt")
    assert found(tmp_path) == {
        "kind_unreadable": {
            "count": 3,
            "files": ["DSC1.NEF", "3_x/c.psd", "3_x/d.mp4"],
            "kinds": ".mp4, .nef, .psd",
        }
    }


def test_pictures_that_need_a_plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a.png", "a.txt", "b.HEIC", "b.txt", "c.jxl")
    monkeypatch.setattr(names, "find_spec", lambda _: None)
    assert found(tmp_path) == {
        "plugin_missing": {
            "count": 2,
            "files": ["b.HEIC", "c.jxl"],
            "kinds": ".heic, .jxl",
            "command": 'pip install "lorasmith[pictures]"',
        }
    }


def test_a_picture_without_its_extension(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "a.txt", "b.npz", "notes")
    for name in ("IMG_1", "photo.jpg_large", "c.download"):
        shutil.copy(tmp_path / "a.png", tmp_path / name)
    assert found(tmp_path) == {
        "picture_without_extension": {"count": 3, "files": ["IMG_1", "c.download", "photo.jpg_large"]}
    }


# -- folders ---------------------------------------------------------------------------------------


def test_pictures_below_a_folder_with_repeats(tmp_path: Path) -> None:
    put(tmp_path, "10_x/a.png", "10_x/a.txt", "10_x/one/b.png", "10_x/one/two/c.jpg", "10_x/3_y/d.png")
    assert found(tmp_path)["pictures_too_deep"] == {
        "count": 3,
        "files": ["10_x/3_y/d.png", "10_x/one/b.png", "10_x/one/two/c.jpg"],
        "first": "10_x/3_y",
    }


def test_folders_that_are_not_used(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "a.txt", "test_10/b.png", "raw/b.png", "raw/deep/c.png", "old/d.png", "0_off/e.png")
    put(tmp_path, "img/5_x/f.png", "words/notes.txt")
    assert found(tmp_path) == {
        "folder_meant": {"count": 1, "files": ["img"], "pictures": 1, "meant": str(tmp_path / "img")},
        "folder_no_repeats": {"count": 1, "files": ["0_off"], "pictures": 1},
        "folder_unused": {"count": 2, "files": ["old", "raw"], "pictures": 3, "name": "old", "right": "1_old"},
        "folder_reversed": {
            "count": 1,
            "files": ["test_10"],
            "pictures": 1,
            "name": "test_10",
            "right": "10_test",
        },
    }


def test_a_folder_with_repeats_named_itself(tmp_path: Path) -> None:
    put(tmp_path, "img/10_zorb/a.png", "img/10_zorb/a.txt")
    assert found(tmp_path / "img" / "10_zorb") == {
        "data_one_too_deep": {
            "count": 1,
            "files": ["a.png"],
            "name": "10_zorb",
            "above": str(tmp_path / "img"),
            "repeats": 10,
        }
    }


def test_a_project_named_instead_of_its_pictures(tmp_path: Path) -> None:
    put(tmp_path, "log/events", "model/last.safetensors", "reg/1_thing/b.png", "img/10_zorb/a.png")
    error = refused(tmp_path)
    assert error.code == "dataset_other_folder"
    assert error.fields == {"folder": str(tmp_path), "meant": str(tmp_path / "img")}


def test_one_folder_with_all_the_pictures(tmp_path: Path) -> None:
    put(tmp_path, "pictures/a.png")
    assert refused(tmp_path).fields["meant"] == str(tmp_path / "pictures")


def test_nothing_but_what_cannot_be_used_says_what(tmp_path: Path) -> None:
    put(tmp_path, "10_x/one/a.png", "10_x/b.cr2")
    error = refused(tmp_path)
    assert error.code == "dataset_empty"
    assert [one["code"] for one in error.fields["findings"]] == ["kind_unreadable", "pictures_too_deep"]


def test_what_systems_and_runs_leave_is_not_named(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "a.txt", "Thumbs.db", "desktop.ini", "._a.png", ".DS_Store", "readme.txt")
    for name in ("__MACOSX", "@eaDir", "#recycle", "lost+found", ".hidden", "$RECYCLE.BIN", "training_logs"):
        put(tmp_path, f"{name}/b.png", f"{name}/5_x/c.png")
    put(tmp_path, "lora_output/samples/step-00000001/d.png", "lora_output/ledger.jsonl")
    put(tmp_path, "lora_output_backup/run_20260101_000000/samples/e.png")
    assert found(tmp_path) == {}


# -- captions --------------------------------------------------------------------------------------


def test_captions_that_no_picture_uses(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "a.txt", "a.caption", "b.txt", "3_x/c.png", "3_x/c.txt", "3_x/d.txt")
    assert found(tmp_path) == {
        "captions_alone": {"count": 2, "files": ["b.txt", "3_x/d.txt"]},
        "captions_second": {"count": 1, "files": ["a.caption"]},
    }


def test_pictures_that_share_a_caption(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "a.jpg", "a.txt")
    assert found(tmp_path) == {"captions_shared": {"count": 2, "files": ["a.jpg", "a.png"]}}


@pytest.mark.parametrize("folder", ["3_x/captions", "captions", "captions/3_x"])
def test_captions_in_a_folder_of_their_own(tmp_path: Path, folder: str) -> None:
    put(tmp_path, "3_x/a.png", f"{folder}/a.txt", f"{folder}/other.txt")
    assert found(tmp_path) == {
        "captions_elsewhere": {"count": 1, "files": [f"{folder}/a.txt"], "folder": folder},
    }


def test_old_captions_in_a_folder_are_not_missed(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "a.txt", "old/a.txt")
    assert found(tmp_path) == {}


def test_captions_of_another_kind(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "a.json", "b.png", "b.txt", "b.json", "metadata.jsonl")
    assert found(tmp_path) == {
        "captions_of_other_kind": {"count": 2, "files": ["a.json", "metadata.jsonl"], "kinds": ".json, .jsonl"}
    }


def test_names_that_differ_a_little_are_used(tmp_path: Path) -> None:
    put(tmp_path, "p0.png", "p0.png.txt", "p1.png", "P1.TXT", "p2.png", "p2.txt.txt")
    assert found(tmp_path) == {}
    examples = scan(
        PictureFolder(tmp_path), Cutting(64, 8), trigger_word="", skip_bad=False, check_pixels=False
    ).examples
    assert [one.caption for one in examples] == ["words 1", "words 3", "words 5"]
