import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lorasmith.config import CaptionsConfig
from lorasmith.data.buckets import Cutting, buckets, fit
from lorasmith.data.folder import PictureFolder, Scan, repeats_in, scan
from lorasmith.data.types import Size
from lorasmith.errors import DatasetError, ExitCode
from tests.data.drawing import drawn, put_picture


def scanned(
    folder: Path, *, resolution: int = 128, trigger_word: str = "", skip_bad: bool = False, check_pixels: bool = True
) -> Scan:
    return scan(
        PictureFolder(folder),
        Cutting(resolution, 32),
        trigger_word=trigger_word,
        skip_bad=skip_bad,
        check_pixels=check_pixels,
    )


def refused(folder: Path, **options: bool) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        scanned(folder, **options)
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    return caught.value


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- what is used ----------------------------------------------------------------------------------


def test_folders_with_repeats_and_loose_pictures(tmp_path: Path) -> None:
    put_picture(tmp_path / "loose.png", number=1)
    put_picture(tmp_path / "10_sks dog" / "a.JPG", number=2)
    put_picture(tmp_path / "10_sks dog" / "b.webp", number=3)
    (tmp_path / "10_sks dog" / "b.txt").write_text("a dog on grass\n", encoding="utf-8")
    put_picture(tmp_path / "3_blue_cat" / "c.Png", number=4)
    put_picture(tmp_path / "2_" / "d.tiff", number=5)
    found = scanned(tmp_path, trigger_word="sks")
    assert [(one.image.name, one.repeats, one.caption) for one in found.examples] == [
        ("a.JPG", 10, "sks dog"),
        ("b.webp", 10, "sks, a dog on grass"),
        ("d.tiff", 2, "sks"),
        ("c.Png", 3, "sks, blue_cat"),
        ("loose.png", 1, "sks"),
    ]
    assert found.problems == ()
    assert [one.code for one in found.findings] == ["no_caption_file", "enlarged"]


def test_no_caption_and_no_trigger_word_is_an_empty_caption(tmp_path: Path) -> None:
    put_picture(tmp_path / "a.png")
    assert scanned(tmp_path).examples[0].caption == ""


def test_an_example_knows_its_cut_and_its_hashes(tmp_path: Path) -> None:
    path = put_picture(tmp_path / "a.png", 300, 200)
    (tmp_path / "a.caption").write_text("words", encoding="utf-8")
    example = scanned(tmp_path).examples[0]
    assert example.original == Size(300, 200)
    assert (example.resized, example.bucket, example.crop) == fit(Size(300, 200), buckets(128, 32))
    assert example.image_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    before = example.example_hash
    assert scanned(tmp_path).examples[0].example_hash == before
    (tmp_path / "a.caption").write_text("other words", encoding="utf-8")
    after = scanned(tmp_path).examples[0]
    assert after.example_hash != before
    assert after.image_sha256 == example.image_sha256


@pytest.mark.parametrize(
    "extension",
    [
        *("png", "PNG", "jpg", "JPEG", "Jpg", "webp", "bmp", "gif", "tif", "TIFF"),
        *("jfif", "JPE", "avif", "Jp2", "ppm", "mpo", "apng"),
    ],
)
def test_extensions_in_any_case(tmp_path: Path, extension: str) -> None:
    put_picture(tmp_path / f"a.{extension}")
    assert len(scanned(tmp_path).examples) == 1


def test_what_is_not_looked_at(tmp_path: Path) -> None:
    put_picture(tmp_path / "a.png")
    put_picture(tmp_path / ".lorasmith_cache" / "b.png")
    put_picture(tmp_path / ".hidden.png")
    put_picture(tmp_path / "1_a" / "deeper" / "b.png")
    put_picture(tmp_path / "1_a" / "._b.png")
    (tmp_path / "1_a" / "notes.md").write_text("x", encoding="utf-8")
    (tmp_path / "c.png").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "stray.txt").write_bytes(b"\xff\xff")
    assert [one.image.name for one in scanned(tmp_path).examples] == ["a.png"]


def test_the_same_picture_twice_is_two_examples(tmp_path: Path) -> None:
    put_picture(tmp_path / "a.png")
    put_picture(tmp_path / "b.png")
    first, second = scanned(tmp_path).examples
    assert first.example_hash == second.example_hash


def test_order_is_by_composed_names_wherever_the_folder_was(tmp_path: Path) -> None:
    composed, decomposed = tmp_path / "linux", tmp_path / "mac"
    names = ["e.png", "\u00e9.png", "z.png", "f.png", "5_b/x.png", "10_a/x.png", "Z.png"]
    for number, name in enumerate(names):
        put_picture(composed / name, number=number)
        put_picture(decomposed / name.replace("\u00e9", "e\u0301"), number=number)
    assert [one.image_sha256 for one in scanned(composed).examples] == [
        one.image_sha256 for one in scanned(decomposed).examples
    ]
    in_order = [one.image.relative_to(composed).as_posix() for one in scanned(composed).examples]
    assert in_order == ["10_a/x.png", "5_b/x.png", "Z.png", "e.png", "f.png", "z.png", "\u00e9.png"]


@pytest.mark.parametrize(
    "name", ["a b.png", "q\"uo'te.png", "new\nline.png", "-dash.png", "x" * 251 + ".png", "貓.png"]
)
@pytest.mark.skipif(sys.platform == "win32", reason="names that Windows has not")
def test_odd_names_work(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        drawn(96, 80).save(file, "PNG")
    assert scanned(tmp_path).examples[0].image == path


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode elsewhere")
def test_a_name_that_is_not_text_is_a_problem(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    shutil.copy(put_picture(tmp_path / "a.png"), name)
    problems = refused(tmp_path).fields["problems"]
    assert [(one["path"], one["reason"]) for one in problems] == [(f"{tmp_path}/caf\\xe9.png", "file_name")]


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode elsewhere")
def test_a_name_that_the_locale_cannot_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(put_picture(tmp_path / "a.png"), os.fsencode(tmp_path) + b"/caf\xe9.png")
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    (problem,) = refused(tmp_path).fields["problems"]
    assert (problem["reason"], problem["fields"]) == ("file_name_locale", {"encoding": "ascii"})


# -- what is noted ----------------------------------------------------------------------------------


def test_nothing_but_a_wrong_name_says_the_right_one(tmp_path: Path) -> None:
    put_picture(tmp_path / "test_10" / "b.png")
    error = refused(tmp_path)
    assert error.code == "dataset_folder_names"
    assert error.fields == {"folder": str(tmp_path), "found": "test_10", "right": "10_test"}


def test_lines_of_captions_that_are_not_used_are_one_finding(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b", "c")):
        put_picture(tmp_path / f"{name}.png", number=number)
    (tmp_path / "a.txt").write_text("one\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("two\ntwo", encoding="utf-8")
    (tmp_path / "c.txt").write_text("three\n\n\ntwo", encoding="utf-8")
    found = {one.code: one.fields for one in scanned(tmp_path).findings}
    assert found["caption_more_lines"] == {"count": 2, "files": ["b.txt", "c.txt"]}


# -- refused ---------------------------------------------------------------------------------------


def test_captions_by_their_settings(tmp_path: Path) -> None:
    put_picture(tmp_path / "a.png", number=1)
    put_picture(tmp_path / "b.png", number=2)
    (tmp_path / "a.tags").write_text("a {b|c}\n\nd\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("not read", encoding="utf-8")
    settings = CaptionsConfig(extension="tags", has_wildcards=True, prefix="p,")
    source = PictureFolder(tmp_path, captioning=settings)
    found = scan(source, Cutting(128, 32), trigger_word="sks", skip_bad=False, check_pixels=False)
    assert [(one.text, one.caption) for one in found.examples] == [("a {b|c}\nd", "sks, p, a b"), ("", "sks, p,")]
    kinds = {one.code: one.fields for one in found.findings}
    assert kinds["captions_of_other_kind"] == {"count": 1, "files": ["b.txt"], "kinds": ".txt"}
    assert "caption_more_lines" not in kinds


def test_no_folder_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "gone").code == "dataset_missing"
    assert refused(tmp_path / "file" / "below").code == "dataset_missing"
    assert refused(tmp_path / "file").code == "dataset_not_folder"
    empty = refused(tmp_path / "empty")
    assert empty.code == "dataset_empty"
    assert (empty.fields["folder"], empty.fields["findings"]) == (str(tmp_path / "empty"), [])
    assert {".png", ".jpg", ".webp"} < set(empty.fields["types"].split())
    (tmp_path / "empty" / "5_x").mkdir()
    assert refused(tmp_path / "empty").code == "dataset_empty"


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", denied)
    error = refused(tmp_path)
    assert error.code == "dataset_unreadable"
    assert error.fields == {"folder": str(tmp_path), "detail": "Permission denied"}


def put_every_problem(folder: Path) -> dict[str, str]:
    """Fills a folder with one good picture and everything that is wrong; gives {relative path: reason}."""
    put_picture(folder / "1_x" / "good.png")
    whole = put_picture(folder / "1_x" / "whole.jpg", 400, 300).read_bytes()
    (folder / "1_x" / "whole.jpg").unlink()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "html.jpg").write_text("<html></html>", encoding="utf-8")
    (folder / "zero.png").touch()
    put_picture(folder / "1_x" / "small.png", 300, 63)
    put_picture(folder / "1_x" / "words.png")
    (folder / "1_x" / "words.txt").write_bytes("café".encode("cp1252"))
    (folder / "both.png").touch()
    (folder / "both.txt").write_bytes(b"a\0b")
    put_picture(folder / "99999_y" / "never.png")
    (folder / "folder_as_caption.txt").mkdir()
    put_picture(folder / "folder_as_caption.png")
    expected = {
        "99999_y": "folder_repeats",
        "1_x/small.png": "picture_too_small",
        "1_x/words.txt": "caption_encoding",
        "both.txt": "caption_nul",
        "both.png": "picture_empty",
        "cut.jpg": "picture_damaged",
        "html.jpg": "picture_unknown",
        "zero.png": "picture_empty",
    }
    if sys.platform != "win32":
        os.mkfifo(folder / "pipe.png")
        (folder / "zeros.png").symlink_to("/dev/zero")
        (folder / "nowhere.png").symlink_to("gone.png")
        (folder / "circle.png").symlink_to("circle.png")
        put_picture(folder / "fine.png")
        os.mkfifo(folder / "fine.txt")
        expected |= {
            "pipe.png": "file_irregular",
            "zeros.png": "file_irregular",
            "nowhere.png": "file_missing",
            "circle.png": "file_unreadable",
            "fine.txt": "file_irregular",
        }
    return expected


def test_every_problem_is_listed_at_once(tmp_path: Path) -> None:
    expected = put_every_problem(tmp_path)
    error = refused(tmp_path)
    assert error.code == "dataset_problems"
    found = {Path(one["path"]).relative_to(tmp_path).as_posix(): one["reason"] for one in error.fields["problems"]}
    assert found == expected
    assert error.fields["count"] == len(error.fields["problems"]) == len(expected)


def test_bad_ones_are_left_out_when_asked(tmp_path: Path) -> None:
    expected = put_every_problem(tmp_path)
    found = scanned(tmp_path, skip_bad=True)
    assert [one.image.name for one in found.examples] == ["good.png", "folder_as_caption.png"]
    assert {one.path.relative_to(tmp_path).as_posix(): one.reason for one in found.problems} == expected
    # the second, cheap look leaves out the same ones
    assert scanned(tmp_path, skip_bad=True, check_pixels=False) == found


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    error = refused(tmp_path, skip_bad=True)
    assert error.code == "dataset_nothing_left"
    assert error.fields["folder"] == str(tmp_path)
    assert [one["reason"] for one in error.fields["problems"]] == ["picture_empty"]


def test_the_cheap_look_believes_the_header(tmp_path: Path) -> None:
    path = put_picture(tmp_path / "a.jpg", 400, 300)
    path.write_bytes(path.read_bytes()[:-500])
    assert len(scanned(tmp_path, check_pixels=False).examples) == 1
    assert refused(tmp_path).code == "dataset_problems"


def test_counting_opens_nothing(tmp_path: Path) -> None:
    for name in ("a.png", "3_cat/b.jpg", "3_cat/c.webp", "test_10/d.png", "3_cat/words.txt", "e.JFIF"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert sorted(repeats_in(PictureFolder(tmp_path))) == [1, 1, 3, 3]


def test_counting_is_refused_where_looking_would_be(tmp_path: Path) -> None:
    for folder, code in ((tmp_path, "dataset_empty"), (tmp_path / "nowhere", "dataset_missing")):
        with pytest.raises(DatasetError, match=code):
            repeats_in(PictureFolder(folder))


def test_looking_changes_nothing(tmp_path: Path) -> None:
    put_every_problem(tmp_path)
    before, times = tree(tmp_path), tmp_path.stat().st_mtime_ns
    refused(tmp_path)
    scanned(tmp_path, skip_bad=True)
    assert tree(tmp_path) == before
    assert tmp_path.stat().st_mtime_ns == times


# -- speed and layers ------------------------------------------------------------------------------


def test_a_thousand_small_pictures_take_seconds_at_most(tmp_path: Path) -> None:
    data = put_picture(tmp_path / "a.jpg", 256, 256).read_bytes()
    for number in range(999):
        (tmp_path / f"{number}.jpg").write_bytes(data)
    start = time.process_time()
    assert len(scanned(tmp_path).examples) == 1000
    assert time.process_time() - start < 5


def test_no_torch_where_the_parent_looks(tmp_path: Path) -> None:
    put_picture(tmp_path / "a.png")
    program = f"""
import sys
from pathlib import Path
from lorasmith.data import buckets, captions, files, folder, images, order, types
where = folder.PictureFolder(Path({str(tmp_path)!r}))
found = folder.scan(where, buckets.Cutting(128, 32), trigger_word="", skip_bad=False, check_pixels=True)
images.pixels(found.examples[0])
order.Order([(found.examples[0].bucket, 1)], batch_size=1, seed=1).batch_at(0, 0)
heavy = [name for name in ("torch", "safetensors", "diffusers", "transformers") if name in sys.modules]
sys.exit(",".join(heavy) or 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stderr) == (0, "")
