"""Captions and names that are trouble: used, or named as what they are; nothing hangs and nothing ends half-way."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lorasmith.data.files import shown
from lorasmith.errors import ExitCode
from lorasmith.messages import LANGUAGES
from tests.abuse.refused import UNSHOWABLE, refused, sentences
from tests.data.drawing import put_picture
from tests.end_to_end.refusals import Desk

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="names and kinds of files that Windows has not")
DATA = {("dataset", "folder"): "bad"}

CAPTIONS: dict[str, tuple[bytes, str]] = {
    "10 MB": (b"a, " * 3_500_000, "file_too_big"),
    "a million tags": (b"a," * 1_000_000, "file_too_big"),
    "UTF-16 without mark": ("a cat, 貓".encode("utf-16-le"), "caption_encoding"),
    "UTF-16 without mark, plain": ("a cat".encode("utf-16-be"), "caption_nul"),
    "UTF-32": ("a cat".encode("utf-32"), "caption_nul"),
    "half a UTF-16": ("a cat".encode("utf-16")[:-1], "caption_encoding"),
    "lone surrogate in UTF-8": (b"a \xed\xa0\x80 cat", "caption_encoding"),
    "lone surrogate in UTF-16": (b"\xff\xfea\0\x00\xd8", "caption_encoding"),
    "overlong": (b"a \xc0\xaf", "caption_encoding"),
    "Shift-JIS": ("猫です".encode("shift-jis"), "caption_encoding"),
    "NUL": (b"a\0b", "caption_nul"),
    "a pickle": (b"\x80\x04\x95\x1d\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.", "caption_encoding"),
}
FINE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", ""),
    "a mark alone": (b"\xef\xbb\xbf", ""),
    "only spaces": (b" \t\r\n \xe3\x80\x80\n", ""),
    "controls": (b"a\x1b[2Jb\x07\x08c\x7f", "a [2Jb c"),
    "right to left": ("\u202eevil".encode(), "\u202eevil"),
    "words of the WebUI": (b"<lora:x:1>, {a|b}, __wild__, (c:1.2), %s %(x)s {0} $HOME `id`", ""),
    "a hundred thousand tags": (b"tag, " * 100_000, ""),
    "old Mac line ends": (b"one\rtwo", "one"),
}


@pytest.mark.parametrize("what", CAPTIONS)
def test_captions_that_are_refused(desk: Desk, bad: Path, what: str) -> None:
    content, reason = CAPTIONS[what]
    put_picture(bad / "a.png")
    (bad / "a.txt").write_bytes(content)
    error = refused(desk.folder, lambda: desk.new("fresh", DATA), "dataset_problems")
    assert [row["reason"] for row in error.fields["problems"]] == [reason]


def test_captions_that_are_used(desk: Desk, bad: Path) -> None:
    for what, (content, _) in FINE.items():
        put_picture(bad / f"{what}.png")
        (bad / f"{what}.txt").write_bytes(content)
    start = desk.new("fresh", DATA)
    assert start.stop_at == 2
    from lorasmith.data.buckets import Cutting
    from lorasmith.data.folder import PictureFolder, scan

    found = scan(PictureFolder(bad), Cutting(64, 32), trigger_word="", skip_bad=False, check_pixels=True)
    captions = {one.image.stem: one.caption for one in found.examples}
    assert {what: captions[what] for what, (_, expected) in FINE.items() if expected} == {
        what: expected for what, (_, expected) in FINE.items() if expected
    }


@pytest.mark.ci
def test_captions_that_are_used_are_trained_on(desk: Desk, bad: Path) -> None:
    """To the last file: what is said about a run of such words, and what an export says of its tags."""
    for number, (what, (content, _)) in enumerate(FINE.items()):
        put_picture(bad / "1_x" / f"{what}.png", 64, 64, number=number)
        (bad / "1_x" / f"{what}.txt").write_bytes(content)
    (bad / "1_x" / "all different.txt").write_text(", ".join(map(str, range(20_000))))
    put_picture(bad / "1_x" / "all different.png", 64, 64, number=99)
    try:
        outcome = desk.workshop.watch(desk.new("words", {("dataset", "folder"): "bad", ("evaluation", "every"): 2}))
        assert outcome.exit_code == ExitCode.FINISHED
        export = desk.folder / "words" / "last.safetensors"
        assert export.stat().st_size < 4 << 20
    finally:
        shutil.rmtree(desk.folder / "words", ignore_errors=True)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def terminal(path: Path) -> None:
    path.symlink_to("/dev/tty")


def plug(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket has room for 100 bytes
        try:
            one.bind(path.name)
        finally:
            os.chdir(here)


def nowhere(path: Path) -> None:
    path.symlink_to("nowhere")


def circle(path: Path) -> None:
    path.symlink_to(path.name)


def long_circle(path: Path) -> None:
    path.symlink_to("b.other")
    path.with_name("b.other").symlink_to(path.name)


def through_a_file(path: Path) -> None:
    path.with_name("file").touch()
    path.symlink_to("file/inside.png")


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 << 30)


KINDS: dict[Callable[[Path], None], str] = {
    fifo: "file_irregular",
    device: "file_irregular",
    terminal: "file_irregular",
    plug: "file_irregular",
    nowhere: "file_missing",
    circle: "file_unreadable",
    long_circle: "file_unreadable",
    through_a_file: "file_unreadable",
    sparse: "file_too_big",
}


@pytest.mark.parametrize("put", KINDS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("name", ["b.png", "a.txt"])
def test_things_that_are_no_files(desk: Desk, bad: Path, put: Callable[[Path], None], name: str) -> None:
    put_picture(bad / "a.png")
    put(bad / name)
    error = refused(desk.folder, lambda: desk.new("fresh", DATA), "dataset_problems")
    assert [(Path(row["path"]).name, row["reason"]) for row in error.fields["problems"]] == [(name, KINDS[put])]


def test_folders_that_lead_in_a_circle(desk: Desk, bad: Path) -> None:
    put_picture(bad / "1_x" / "a.png")
    (bad / "1_x" / "2_back").symlink_to(bad)
    (bad / "3_self").symlink_to("3_self")
    (bad / "4_up").symlink_to("1_x")
    assert desk.new("fresh", DATA).stop_at == 2


CANNOT = 77  # exit status
# As somebody whom modes stop: root may be refused even that, in a container.
AS_NOBODY = f"""
import os, sys
try:
    if os.getuid() == 0:
        os.setuid(65534)
except OSError:
    sys.exit({CANNOT})
"""


def as_nobody(imports: str, program: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    """What a program does as somebody else than root, once it has imported what it needs."""
    command = [sys.executable, "-c", imports + AS_NOBODY + program, *map(str, paths)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode == CANNOT:
        pytest.skip("root here cannot become somebody else")
    return done


def test_a_file_that_may_not_be_read() -> None:
    """As somebody whom modes stop: whoever runs this may be root."""
    imports = "from pathlib import Path\nfrom lorasmith.data.files import read_whole, BadFileError\n"
    program = "try: read_whole(Path(sys.argv[1]), most=10)\nexcept BadFileError as error: print(error.problem.reason)"
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # where others may look, which pytest's folders are not
    folder.chmod(0o755)
    try:
        (folder / "a.png").write_bytes(b"x")
        (folder / "a.png").chmod(0)
        done = as_nobody(imports, program, folder / "a.png")
    finally:
        shutil.rmtree(folder)
    assert done.stdout.strip() == "file_unreadable", done.stderr


SCANNER = """
from pathlib import Path
from lorasmith.data import images
from lorasmith.data.buckets import Cutting
from lorasmith.data.folder import PictureFolder, scan
from lorasmith.errors import DatasetError
images._formats()
"""
SCAN = """
for folder in sys.argv[1:]:
    try: scan(PictureFolder(Path(folder)), Cutting(64, 32), trigger_word="", skip_bad=False, check_pixels=True)
    except DatasetError as error:
        print(error.code, *sorted(Path(row["path"]).name for row in error.fields.get("problems", [])))
"""


def test_folders_and_files_that_may_not_be_read() -> None:
    """All of them are named: a picture, a caption, a folder of pictures; or the whole of it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # as above: TMPDIR may be closed to others
        Path(place).chmod(0o755)
        data, closed = Path(place) / "data", Path(place) / "closed"
        for name in ("good.png", "secret.png", "b.png", "1_closed/c.png"):
            put_picture(data / name)
        (data / "b.txt").write_text("words")
        closed.mkdir()
        denied = [data / "secret.png", data / "b.txt", data / "1_closed", closed]
        for one in denied:
            one.chmod(0)
        try:
            done = as_nobody(SCANNER, SCAN, data, closed)
        finally:
            for one in denied:
                one.chmod(0o755)
    assert done.stdout.splitlines() == ["dataset_problems 1_closed b.txt secret.png", "dataset_unreadable"], done.stderr


NAMES = ["new\nline", "\x1b]0;owned\x07\x1b[2J", "\u202egnp.exe", "a\u200bb", "-rf", "$(id)", "%s{0}{x}", "\x7f\x9b2J"]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_moves_the_cursor_of_whoever_reads_it(desk: Desk, bad: Path, name: str) -> None:
    (bad / f"{name}.png").touch()
    error = refused(desk.folder, lambda: desk.new("fresh", DATA), "dataset_problems")
    for language in LANGUAGES:
        text = sentences(language, error.code, error.fields)
        assert [one for one in UNSHOWABLE if one in text] == []
    (row,) = error.fields["problems"]
    assert "\n" not in row["path"] and row["reason"] == "picture_empty"


def test_names_that_can_be_read_are_shown_as_they_are() -> None:
    for name in ("貓 1.png", "é.png", "a'b\"c.png", "한국어", "עברית.png", "👩‍👩‍👧.png".replace("\u200d", "")):
        assert shown(Path(name)) == name


def test_names_that_differ_in_case_or_form_are_two_pictures(desk: Desk, bad: Path) -> None:
    for number, name in enumerate(("A.png", "a.png", "a.PNG", "\u00e9.png", "e\u0301.png")):
        put_picture(bad / name, number=number)
    for name, words in (("A.txt", "upper"), ("a.TXT", "lower")):
        (bad / name).write_text(words)
    from lorasmith.data.buckets import Cutting
    from lorasmith.data.folder import PictureFolder, scan

    found = scan(PictureFolder(bad), Cutting(64, 32), trigger_word="", skip_bad=False, check_pixels=False)
    captions = {one.image.name: one.caption for one in found.examples}
    assert captions == {"A.png": "upper", "a.png": "lower", "a.PNG": "lower", "\u00e9.png": "", "e\u0301.png": ""}
    assert desk.new("fresh", DATA).stop_at == 2


@pytest.mark.parametrize(
    "name", ["x" * 300, "y/" * 3000, "~nobody_of_this_name/x", "a\0b", "file/x", "/dev/null", "/proc/self/mem"]
)
@pytest.mark.parametrize("setting", [("dataset", "folder"), ("model", "base_model"), ("adapter", "init_from")])
def test_paths_that_no_system_takes(desk: Desk, bad: Path, setting: tuple[str, str], name: str) -> None:
    (desk.folder / "file").touch()
    codes = {"folder": ("dataset_missing", "dataset_unreadable", "dataset_not_folder", "config_value")}
    codes["base_model"] = (
        "base_model_not_found",
        "model_irregular",
        "model_unreadable",
        "model_truncated",
        "config_value",
    )
    codes["init_from"] = ("init_from_missing", "lora_unreadable", "lora_irregular", "config_value")
    from lorasmith.errors import InputError

    try:
        desk.new("fresh", {setting: name})
    except InputError as error:
        code = error.code
    assert code in codes[setting[1]]
    refused(desk.folder, lambda: desk.new("fresh", {setting: name}), code)
    assert bad.exists()
