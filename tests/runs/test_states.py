import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lorasmith.runs.states import (
    MANIFEST,
    SavedState,
    damage_listed,
    damage_of,
    find_states,
    manifest_bytes,
    newest_good,
    set_aside,
    sha256_of,
)

FILES = {"adapter.safetensors": b"tensors" * 50, "optimizer.pt": b"moments" * 50, "train_state.json": b"{}"}


def put(folder: Path, step: int, identity: str = "i") -> SavedState:
    """A state as training writes it: the files, then the manifest."""
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content + b"%d" % step)
    (folder / MANIFEST).write_bytes(manifest_bytes(folder, step=step, identity=identity))
    return SavedState(folder, step, identity)


def edit_manifest(folder: Path, change: Callable[[dict], object]) -> None:
    manifest = json.loads((folder / MANIFEST).read_bytes())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


# -- finding ---------------------------------------------------------------------------------------


def test_no_folder_has_no_states(tmp_path: Path) -> None:
    assert find_states(tmp_path / "nowhere") == ([], [])
    assert newest_good(tmp_path / "nowhere") == (None, [])


def test_a_state_is_found_by_what_it_holds(tmp_path: Path) -> None:
    states = [put(tmp_path / name, step) for step, name in enumerate(("before lunch", "v1.2", "狀態目錄_2025"), 1)]
    for other in ("logs", "samples"):
        (tmp_path / other).mkdir()
        (tmp_path / other / "events.out").write_bytes(b"x")
    (tmp_path / "last.safetensors").write_bytes(b"x")
    assert find_states(tmp_path) == (states[::-1], [])
    (tmp_path / "v1.2").rename(tmp_path / "the one I like")
    assert {state.path.name for state in find_states(tmp_path)[0]} == {
        "before lunch",
        "the one I like",
        "狀態目錄_2025",
    }


def test_the_highest_step_wins_whatever_name_and_date(tmp_path: Path) -> None:
    for step, name, date in ((9, "state_20990101_000000", 3e9), (100, "state_20200101_000000", 1e9), (20, "z", 2e9)):
        put(tmp_path / name, step)
        for path in [tmp_path / name, *(tmp_path / name).iterdir()]:
            os.utime(path, (date, date))
    assert [state.step for state in find_states(tmp_path)[0]] == [100, 20, 9]
    good, damaged = newest_good(tmp_path)
    assert good is not None and (good.step, damaged) == (100, [])


def test_hidden_and_set_aside_folders_are_no_states(tmp_path: Path) -> None:
    put(tmp_path / ".state_20250101.77.tmp", 9)
    put(tmp_path / ".state.removed.tmp", 8)
    put(tmp_path / "state.damaged", 7)
    only = put(tmp_path / "state", 1)
    (tmp_path / ".state_half.tmp").mkdir()
    assert find_states(tmp_path) == ([only], [])


@pytest.mark.parametrize("content", [b"{}", b"[]", b'{"name": "my web app", "icons": []}', b"not json", b"\xff", b""])
def test_a_manifest_of_something_else_is_none_of_our_business(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / MANIFEST).write_bytes(content)
    assert newest_good(tmp_path) == (None, [])


@pytest.mark.parametrize(
    "content", [None, b"", b"{}", b"[]", b"null", b"\0" * 300, b'{"step": null, "identity": ""}', b'{"step": Infinity}']
)
def test_a_state_without_a_readable_manifest_is_damaged(tmp_path: Path, content: bytes | None) -> None:
    good = put(tmp_path / "a", 1)
    put(tmp_path / "b", 2)
    manifest = tmp_path / "b" / MANIFEST
    manifest.unlink() if content is None else manifest.write_bytes(content)
    assert find_states(tmp_path) == ([good], [tmp_path / "b"])
    assert newest_good(tmp_path) == (good, [tmp_path / "b"])


# -- damage ----------------------------------------------------------------------------------------


def test_a_whole_state_has_no_damage_wherever_it_is_copied(tmp_path: Path) -> None:
    assert damage_of(put(tmp_path / "a", 1)) is None
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "my notes.txt").write_text("good one")
    assert damage_of(SavedState(tmp_path / "b", 1, "i")) is None


def spoil_missing(folder: Path) -> None:
    (folder / "optimizer.pt").unlink()


def spoil_folder(folder: Path) -> None:
    spoil_missing(folder)
    (folder / "optimizer.pt").mkdir()


def spoil_truncated(folder: Path) -> None:
    path = folder / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:-1])


def spoil_longer(folder: Path) -> None:
    path = folder / "optimizer.pt"
    path.write_bytes(path.read_bytes() + b"\0")


def spoil_empty(folder: Path) -> None:
    (folder / "optimizer.pt").write_bytes(b"")


def spoil_bit(folder: Path) -> None:
    content = bytearray((folder / "optimizer.pt").read_bytes())
    content[200] ^= 1
    (folder / "optimizer.pt").write_bytes(content)


def spoil_swapped(folder: Path) -> None:
    (folder / "adapter.safetensors").rename(folder / "x")
    (folder / "optimizer.pt").rename(folder / "adapter.safetensors")
    (folder / "x").rename(folder / "optimizer.pt")


def spoil_other_state(folder: Path) -> None:
    """The same file of another state, of the same size."""
    (folder / "optimizer.pt").write_bytes(FILES["optimizer.pt"] + b"3")


def spoil_format(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest.update(format=2))


def spoil_step(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest.update(step=900))


def spoil_list(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest["files"].pop("optimizer.pt"))


def spoil_type(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest.update(files=[]))


DAMAGES = {
    spoil_missing: "missing:optimizer.pt",
    spoil_folder: "missing:optimizer.pt",
    spoil_truncated: "size:optimizer.pt",
    spoil_longer: "size:optimizer.pt",
    spoil_empty: "size:optimizer.pt",
    spoil_bit: "content:optimizer.pt",
    spoil_swapped: "content:adapter.safetensors",
    spoil_other_state: "content:optimizer.pt",
    spoil_format: "manifest",
    spoil_step: "manifest",
    spoil_list: "manifest",
    spoil_type: "manifest",
}


@pytest.mark.parametrize("spoil", DAMAGES, ids=lambda one: one.__name__)
def test_each_kind_of_damage_is_found_and_named(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    good = put(tmp_path / "good", 1)
    bad = put(tmp_path / "bad", 2)
    spoil(bad.path)
    assert damage_of(bad) == DAMAGES[spoil]
    assert newest_good(tmp_path) == (good, [bad.path])


def test_no_flipped_bit_of_a_manifest_goes_unseen(tmp_path: Path) -> None:
    put(tmp_path / "a", 12)
    whole = (tmp_path / "a" / MANIFEST).read_bytes()
    meaning = json.loads(whole)
    for place in range(len(whole)):
        for bit in (1 << place % 7,):
            content = bytearray(whole)
            content[place] ^= bit
            try:
                if json.loads(content) == meaning:
                    continue  # a space became a line break
            except ValueError:
                pass
            (tmp_path / "a" / MANIFEST).write_bytes(content)
            assert newest_good(tmp_path) == (None, [tmp_path / "a"]), (place, bit)


def test_only_what_is_above_the_good_one_is_looked_at(tmp_path: Path) -> None:
    states = [put(tmp_path / f"state_{step}", step) for step in range(1, 6)]
    for number in (0, 3, 4):
        spoil_bit(states[number].path)
    assert newest_good(tmp_path) == (states[2], [states[4].path, states[3].path])


def test_where_all_are_damaged_there_is_none(tmp_path: Path) -> None:
    spoil_bit(put(tmp_path / "a", 1).path)
    assert newest_good(tmp_path) == (None, [tmp_path / "a"])


def test_looking_changes_nothing(tmp_path: Path) -> None:
    spoil_bit(put(tmp_path / "a", 2).path)
    put(tmp_path / "b", 1)
    before = {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in tmp_path.rglob("*")}
    newest_good(tmp_path)
    assert before == {
        path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in tmp_path.rglob("*")
    }


# -- setting aside ---------------------------------------------------------------------------------


def test_a_damaged_state_is_renamed_and_never_taken_again(tmp_path: Path) -> None:
    for number in range(3):
        bad = put(tmp_path / "state", 2)
        spoil_bit(bad.path)
        expected = tmp_path / ("state.damaged" if not number else f"state_{number + 1}.damaged")
        assert set_aside(bad.path) == expected
        assert not bad.path.exists() and len(list(expected.iterdir())) == 4
        assert newest_good(tmp_path) == (None, [])


# -- manifests -------------------------------------------------------------------------------------


def test_a_manifest_says_what_a_person_can_check(tmp_path: Path) -> None:
    put(tmp_path / "a", 7, "the identity")
    manifest = json.loads((tmp_path / "a" / MANIFEST).read_bytes())
    assert (manifest["format"], manifest["step"], manifest["identity"]) == (1, 7, "the identity")
    assert set(manifest["files"]) == set(FILES)
    facts = manifest["files"]["adapter.safetensors"]
    assert facts == {"bytes": 351, "sha256": sha256_of(tmp_path / "a" / "adapter.safetensors")}


def test_a_hash_is_that_of_the_standard_also_of_a_large_file(tmp_path: Path) -> None:
    import hashlib

    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_states_are_known_without_torch(tmp_path: Path) -> None:
    put(tmp_path / "a", 7)
    program = (
        "import sys; from pathlib import Path; from lorasmith.runs.states import newest_good\n"
        f"print(newest_good(Path({str(tmp_path)!r}))[0].step, 'torch' in sys.modules)"
    )
    done = subprocess.check_output([sys.executable, "-c", program], cwd=Path(__file__).parents[2])
    assert done.split() == [b"7", b"False"]


def test_damage_is_listed_with_its_file(tmp_path: Path) -> None:
    for name in ("cut", "gone", "other", "bare"):
        put(tmp_path / name, 1)
    (tmp_path / "cut" / "optimizer.pt").write_bytes(b"x")
    (tmp_path / "gone" / "adapter.safetensors").unlink()
    (tmp_path / "other" / "optimizer.pt").write_bytes(b"Moments" * 50 + b"1")
    (tmp_path / "bare" / MANIFEST).unlink()
    listed = damage_listed(tmp_path / name for name in ("cut", "gone", "other", "bare"))
    assert [(one["path"], one["fields"]["damage"]) for one in listed] == [
        ("cut", "size:optimizer.pt"),
        ("gone", "missing:adapter.safetensors"),
        ("other", "content:optimizer.pt"),
        ("bare", "manifest"),
    ]
