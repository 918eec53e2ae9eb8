"""Pictures made to be trouble: each is refused with its reason or is fine, in bounded time and memory."""

import json
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from lorasmith.data import images
from lorasmith.data.files import BadFileError
from tests.abuse.bombs import PICTURES
from tests.abuse.refused import refused
from tests.end_to_end.refusals import Desk

ROOT = Path(__file__).resolve().parents[2]
MAX_SECONDS = 6.0  # of computing, each: of the slowest, whose blocks are copied again and again, one on an AMD EPYC
MAX_MIB = 300


def put(folder: Path, only: str = "") -> dict[str, str]:
    """{file name: the reason it must have}."""
    folder.mkdir(exist_ok=True)
    expected = {}
    for number, (what, (make, reason)) in enumerate(PICTURES.items()):
        if not only or only == what:
            name = f"{number:02d} {what}.png"
            (folder / name).write_bytes(make())
            expected[name] = reason
    return expected


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], dict[str, list]]:
    folder = tmp_path_factory.mktemp("pictures")
    expected = put(folder)
    command = [sys.executable, "-W", "ignore", "-m", "tests.abuse.looking", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return expected, json.loads(done.stdout)


def test_each_has_its_reason_or_none(looked: tuple[dict[str, str], dict[str, list]]) -> None:
    expected, found = looked
    assert {name: row[0] for name, row in found.items()} == expected


def test_each_takes_little_time(looked: tuple[dict[str, str], dict[str, list]]) -> None:
    assert {name: row[1] for name, row in looked[1].items() if row[1] > MAX_SECONDS} == {}


def test_each_takes_little_memory(looked: tuple[dict[str, str], dict[str, list]]) -> None:
    assert {name: row[2] for name, row in looked[1].items() if row[2] > MAX_MIB} == {}


@pytest.mark.ci
def test_all_of_them_are_listed_before_anything_is_written(desk: Desk, bad: Path) -> None:
    small = {name: reason for name, reason in put(bad / "pictures").items() if reason}
    for output in ("fresh", "lora_output"):
        error = refused(
            desk.folder,
            partial(desk.new, output, {("dataset", "folder"): "bad/pictures"}),
            "dataset_problems",
        )
        assert {Path(row["path"]).name: row["reason"] for row in error.fields["problems"]} == small


def test_where_memory_runs_out_the_picture_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a", "jpeg of 10 scans")
    (path,) = (tmp_path / "a").iterdir()

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "has_transparency_data", property(full))
    with pytest.raises(BadFileError) as caught:
        images.inspect(path, decode=True)
    assert caught.value.problem.reason == "picture_memory"


def test_the_limit_of_memory_is_one(tmp_path: Path) -> None:
    """Without it the figures above would say nothing."""
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "try: bytearray(1 << 30)\nexcept MemoryError: print('none')"
    )
    assert subprocess.check_output([sys.executable, "-c", program], cwd=tmp_path).strip() == b"none"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0
