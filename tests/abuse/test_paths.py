"""Paths that are trouble: a run works in them, or is refused before anything is written; never half of each.

(Names of pictures: tests/data/test_folder.py, test_captions_and_names.py. Of exports: test_settings.py.)
"""

import os
import sys
from pathlib import Path

import pytest

from lorasmith.demo.miniature import draw_pictures
from lorasmith.errors import ExitCode, InputError
from lorasmith.runs.layout import MAX_PATH_INSIDE, RunFolder, run_at
from lorasmith.ui.cli import main
from tests.abuse.refused import UNSHOWABLE, refused, snapshot
from tests.data.drawing import put_picture
from tests.end_to_end.refusals import Desk
from tests.end_to_end.workshop import Workshop

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="names that Windows has not")

ODD = ["a b'c\"d", "new\nline", "-rf", "e\u0301", "\x1b[2J%s{0}$(x)`y`", "x" * 230]
BY_DEFAULT = ("new\nline", ODD[-2])


@pytest.mark.parametrize(
    "name", [pytest.param(one, id=ascii(one), marks=[] if one in BY_DEFAULT else [pytest.mark.ci]) for one in ODD]
)
def test_a_run_of_odd_folders(
    base_model: Path, shared_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Where somebody stands, the pictures, and the run, all called so; begun, gone on with, begun anew."""
    folder = tmp_path / name
    draw_pictures(folder / name, 1, seed=1, size=(64, 64))
    (folder / ".lorasmith_cache").symlink_to(shared_cache)
    workshop = Workshop(folder, base_model, monkeypatch, output=f"{name[:200]} out")
    where = {("dataset", "folder"): name}
    assert workshop.new(1, where).exit_code == ExitCode.FINISHED
    assert workshop.go_on(1).exit_code == ExitCode.FINISHED
    assert workshop.new(1, where).exit_code == ExitCode.FINISHED
    found = {path.name for path in folder.iterdir()}
    assert found == {".lorasmith_cache", name, workshop.output, f"{workshop.output}_backup"}


# What no file of a run can have: too long with what is put behind it, too long as a whole, in a circle.
OUTPUTS = ["x" * 300, "x" * 255, "x" * 249, "貓" * 90, "a/" * 2000 + "b", "circle", "circle/below"]


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda one: f"{one[:8]} {len(one)}")
def test_outputs_that_no_system_takes(desk: Desk, output: str) -> None:
    circle = desk.folder / "circle"
    circle.symlink_to("circle")
    try:
        refused(desk.folder, lambda: desk.new(output, {}), "output_unusable")
    finally:
        circle.unlink()


COMMANDS = [
    ["train", "--new", "--steps", "1", "--base-model", "demo"],
    ["train", "--continue", "--steps", "1"],
    ["plan", "--new", "--steps", "1", "--base-model", "demo"],
    ["plan", "--continue", "--steps", "1"],
    ["logs"],
    ["report"],
    ["tensorboard"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: " ".join(one[:2]))
def test_every_command_says_so_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    put_picture(tmp_path / "lora_train_set" / "a.png")
    (tmp_path / "circle").symlink_to("circle")
    monkeypatch.chdir(tmp_path)
    before = snapshot(tmp_path)
    for output in ("circle", "x" * 300):
        assert main([*command, "--lang", "en", "--output", output]) == ExitCode.BAD_INPUT
        said = capsys.readouterr().err
        assert said.startswith("Error: `") and "cannot be used as the run folder" in said and said.count("\n") == 2
    if "--continue" not in command:  # which reads no settings but the run's own
        (tmp_path / "lorasmith.toml").write_text(f'output = "{"x" * 300}"\n')
        assert main([*command, "--lang", "en"]) == ExitCode.BAD_INPUT
        assert "cannot be used as the run folder" in capsys.readouterr().err
        (tmp_path / "lorasmith.toml").unlink()
    assert snapshot(tmp_path) == before


def test_the_longest_that_is_taken_has_room_for_all_that_is_in_it(tmp_path: Path) -> None:
    name = "x" * (255 - len(".starting"))
    run = run_at(tmp_path, name)
    run.staging.mkdir()
    longest = run.backup / "run_20260102_030405_2" / "samples" / "step-00000100" / f"{'x' * 120}.png"
    assert len(os.fsencode(longest.relative_to(run.backup))) <= MAX_PATH_INSIDE
    with pytest.raises(InputError):
        run_at(tmp_path, name + "x")


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode elsewhere")
@pytest.mark.parametrize("place", ["here", "data", "output"])
def test_names_that_are_no_text(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
    base_model: Path,
    place: str,
) -> None:
    """The settings of a run are text: such a folder is refused, by a line that any terminal shows."""
    odd = os.fsdecode(b"caf\xe9")
    here = tmp_path / odd if place == "here" else tmp_path
    data = odd if place == "data" else "lora_train_set"
    draw_pictures(here / data, 1, seed=1, size=(64, 64))
    monkeypatch.chdir(here)
    before = snapshot(tmp_path)
    arguments = ["--base-model", str(base_model), "--data", data, "--output", odd if place == "output" else "out"]
    assert main(["train", "--new", "--steps", "1", "--lang", "en", *arguments]) == ExitCode.BAD_INPUT
    said = capsysbinary.readouterr().err.decode()
    assert said.startswith("Error: `--") and "Traceback" not in said
    assert [one for one in UNSHOWABLE if one in said] == []
    assert snapshot(tmp_path) == before


def test_an_output_whose_place_is_not_there_yet(desk: Desk) -> None:
    """Folders above it are made; a link to nothing is somebody's mistake."""
    assert run_at(desk.folder, "a/b/c").root == desk.folder / "a" / "b" / "c"
    (desk.folder / "nowhere").symlink_to("gone")
    try:
        refused(desk.folder, lambda: desk.new("nowhere", {}), "output_not_folder")
        assert isinstance(run_at(desk.folder, "nowhere"), RunFolder)
    finally:
        (desk.folder / "nowhere").unlink()
