"""Damage to a state, of every kind and in every file: found, the state set aside, the one before it used, and told.

(What a single kind looks like from inside: tests/runs/test_states.py; what is put there on purpose: tests/abuse.)
"""

import json
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lorasmith.demo.miniature import draw_pictures
from lorasmith.errors import ExitCode
from lorasmith.messages import LANGUAGES
from lorasmith.runs import states
from lorasmith.runs.events import RunStarted, StepCompleted
from lorasmith.runs.states import MANIFEST, find_states, newest_good
from lorasmith.ui.translator import Translator
from tests.end_to_end.workshop import Workshop, tree

SEED = 20261126
FLIPS = int(os.environ.get("FAULT_RUNS", "200"))  # of each file
BLOCK = 4096
PROJECT = Path(__file__).parents[2]
FILES = (
    "adapter.safetensors",
    "optimizer.pt",
    "lr_scheduler.pt",
    "random_states.pkl",
    "train_state.json",
    "manifest.json",
)
SMALL: dict[tuple[str, str], Any] = {("cadence", "save_every"): 1, ("adapter", "rank"): 1}


@dataclass
class Shelf:
    """A run with three states, and one of another run."""

    workshop: Workshop
    newest: Path
    before: Path
    foreign: Path


@pytest.fixture(scope="module")
def shelf(base_model: Path, shared_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    folder = tmp_path_factory.mktemp("shelf")
    (folder / ".lorasmith_cache").symlink_to(shared_cache)
    draw_pictures(folder / "lora_train_set", 4, seed=1, size=(64, 64))
    with pytest.MonkeyPatch.context() as patch:
        workshop, other = Workshop(folder, base_model, patch), Workshop(folder, base_model, patch, output="other")
        workshop.new(2, SMALL)
        other.new(2, {**SMALL, ("", "seed"): 7})
        newest, before, _ = (state.path for state in find_states(workshop.run.root)[0])
        yield Shelf(workshop, newest, before, find_states(other.run.root)[0][0].path)


class Tried:
    """A file of the newest state with other contents, one after the other; whole again at the end."""

    def __init__(self, shelf: Shelf, name: str) -> None:
        self.shelf, self.path = shelf, shelf.newest / name
        self.whole = self.path.read_bytes()
        self.count = 0
        self.unseen: list[str] = []

    def __enter__(self) -> "Tried":
        return self

    def __exit__(self, *_: object) -> None:
        self.path.write_bytes(self.whole)

    def content(self, content: bytes, what: str) -> None:
        """Is it seen, and is the state before it taken?"""
        if content == self.whole:
            return
        self.count += 1
        self.path.write_bytes(content)
        good, damaged = newest_good(self.shelf.workshop.run.root)
        if good is None or good.path != self.shelf.before or damaged != [self.shelf.newest]:
            self.unseen.append(what)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_found(shelf: Shelf, name: str) -> None:
    rng = random.Random(f"{SEED} {name}")
    with Tried(shelf, name) as tried:
        for _ in range(FLIPS):
            place, bit = rng.randrange(len(tried.whole)), rng.randrange(8)
            content = bytearray(tried.whole)
            content[place] ^= 1 << bit
            tried.content(bytes(content), f"byte {place} bit {bit}")
    say(f"{name}: {tried.count} flipped bits, {len(tried.unseen)} unseen (seed {SEED})")
    assert tried.count == FLIPS
    assert tried.unseen == []


def test_without_the_hashes_they_would_not_be(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the test above can fail: sizes alone tell nothing of a flipped bit."""

    def believed(path: Path) -> str:
        listed = json.loads((path.parent / MANIFEST).read_bytes())["files"]
        return str(listed[path.name]["sha256"])

    monkeypatch.setattr(states, "sha256_of", believed)
    with Tried(shelf, "optimizer.pt") as tried:
        for place in range(0, len(tried.whole), len(tried.whole) // 50):
            tried.content(tried.whole[:place] + bytes([tried.whole[place] ^ 1]) + tried.whole[place + 1 :], str(place))
    assert len(tried.unseen) == tried.count >= 50


def borders(name: str, content: bytes) -> list[int]:
    """Where one part of the file ends and the next begins."""
    if name.endswith(".safetensors"):
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        ends = [offset for row in header.values() if "data_offsets" in row for offset in row["data_offsets"]]
        return [8, 8 + length, *(8 + length + end for end in ends)]
    if name.endswith(".json"):
        return [place + shift for place, byte in enumerate(content) if byte == 10 for shift in (0, 1)]
    marks = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06")
    return [place for place in range(len(content)) if content[place : place + 4] in marks]


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_found(shelf: Shelf, name: str) -> None:
    """At every 4 KiB, at every border of the format and beside it, and to nothing."""
    with Tried(shelf, name) as tried:
        length = len(tried.whole)
        found = borders(name, tried.whole)
        cuts = {0, 1, length - 1, length // 2, *range(0, length, BLOCK)}
        cuts |= {border + shift for border in found for shift in (-1, 0, 1)}
        for cut in sorted(one for one in cuts if 0 <= one < length):
            tried.content(tried.whole[:cut], f"cut at {cut}")
    say(f"{name} ({length} bytes): {tried.count} truncations, {len(tried.unseen)} unseen")
    assert len(found) >= 2
    assert tried.count >= length // BLOCK
    assert tried.unseen == []


@pytest.mark.parametrize("name", FILES)
def test_every_foreign_content_is_found(shelf: Shelf, name: str) -> None:
    """Zeros at the end or as a page that was never written, the same file of the state before or of another run,
    another file of this state, more than there was, nothing at all."""
    with Tried(shelf, name) as tried:
        whole = tried.whole
        for count in (1, 2, 16, 512, BLOCK, len(whole) // 2, len(whole)):
            tried.content(whole[:-count].ljust(len(whole), b"\0"), f"{count} zeros at the end")
        for place in range(0, len(whole), BLOCK):
            tried.content(
                whole[:place] + bytes(min(BLOCK, len(whole) - place)) + whole[place + BLOCK :], f"page {place}"
            )
        tried.content((shelf.before / name).read_bytes(), "of the state before")
        tried.content((shelf.foreign / name).read_bytes(), "of another run")
        for other in FILES:
            tried.content((shelf.newest / other).read_bytes() if other != name else whole, f"it is {other}")
        tried.content(whole + b"\0", "a zero more")
        tried.content(whole + whole, "twice")
        tried.path.unlink()
        good, damaged = newest_good(shelf.workshop.run.root)
        assert good is not None and (good.path, damaged) == (shelf.before, [shelf.newest])
    say(f"{name}: {tried.count} foreign contents, {len(tried.unseen)} unseen")
    assert tried.unseen == []


@pytest.mark.parametrize("name", FILES)
def test_files_swapped_between_two_states(shelf: Shelf, name: str, tmp_path: Path) -> None:
    """Both are damaged then, and the third is taken."""
    ours, theirs = shelf.newest / name, shelf.before / name
    contents = ours.read_bytes(), theirs.read_bytes()
    try:
        ours.write_bytes(contents[1])
        theirs.write_bytes(contents[0])
        good, damaged = newest_good(shelf.workshop.run.root)
        assert good is not None and good.step == 0
        assert set(damaged) == {shelf.newest, shelf.before}
    finally:
        ours.write_bytes(contents[0])
        theirs.write_bytes(contents[1])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["adapter.safetensors", "optimizer.pt", "manifest.json"])
def test_the_run_goes_on_from_the_one_before(shelf: Shelf, name: str, tmp_path: Path) -> None:
    """Through the real worker: set aside with all that is in it, told, and the steps between are done again."""
    here = shutil.copytree(shelf.workshop.folder, tmp_path / "here", symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        workshop = Workshop(here, shelf.workshop.base_model, patch)
        spoilt = workshop.run.root / shelf.newest.name
        flipped(spoilt / name)
        held = tree(spoilt)
        outcome = workshop.go_on(1)
        assert outcome.exit_code == ExitCode.FINISHED
        assert outcome.of(RunStarted)[0].resumed_from == 1
        assert [event.step for event in outcome.of(StepCompleted)] == [2, 3]
        warning, back = outcome.warned
        assert (back.code, back.fields["step"]) == ("stepped_back", 1)  # the LoRA of step 2, which is done again
        assert (warning.code, warning.fields) == (
            "state_set_aside",
            {
                "state": spoilt.name,
                "aside": f"{spoilt.name}.damaged",
                "damage": "manifest" if name == "manifest.json" else f"content:{name}",
            },
        )
        assert all(spoilt.name in Translator(one).warning(warning.code, warning.fields)[0] for one in LANGUAGES)
        assert tree(workshop.run.root / f"{spoilt.name}.damaged") == held
        straight = Workshop(here, shelf.workshop.base_model, patch, output="straight")
        straight.new(3, SMALL)
        assert workshop.digest() == straight.digest()
        assert workshop.losses() == straight.losses()


def test_where_none_is_good_the_command_says_so_and_what_to_do(shelf: Shelf, tmp_path: Path) -> None:
    """As it is typed: exit 4, all of them named, a way forward, and not a byte changed."""
    here = shutil.copytree(shelf.workshop.folder, tmp_path / "here", symlinks=True)
    states = [here / state.path.relative_to(shelf.workshop.folder) for state in find_states(shelf.workshop.run.root)[0]]
    for number, state in enumerate(states):
        flipped(state / FILES[number])
    before = tree(here)
    for language, way in (("en", "--init-from"), ("zh-TW", "--init-from")):
        command = [sys.executable, str(PROJECT / "train_lora.py"), "--continue", "--steps", "1", "--lang", language]
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=200)
        assert done.returncode == ExitCode.NO_STATE
        assert all(state.name in done.stderr for state in states)
        assert way in done.stderr and "Traceback" not in done.stderr
        assert tree(here) == before
