"""States on disk: whole or not there, never with code in them, never the last good one removed."""

import errno
import json
import os
import pickle
import pickletools
import shutil
import zipfile
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lorasmith.engine.optimizers import build_optimizer
from lorasmith.engine.state import Origin, TrainState
from lorasmith.errors import InputError, NonFiniteError, NoStateError, ResourceError, ResumeError
from lorasmith.faults import choose_fault
from lorasmith.runs import durable
from lorasmith.runs.durable import write_durably
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.states import SavedState, damage_of, find_states, manifest_bytes, sha256_of
from lorasmith.runtime.cleanup import remove_unfinished
from lorasmith.session import checkpoint
from lorasmith.session.checkpoint import (
    StateFacts,
    check_disk_space,
    load_state,
    prune_states,
    save_state,
)
from lorasmith.session.resume import changes_since, restore_state, step_back
from tests.adapters.making import attached_to_all
from tests.end_to_end.workshop import digest, tree

NOW = datetime(2026, 1, 2, 3, 4, 5)
FACTS = StateFacts("identity", "data", 42, {"shape": "constant"}, {"epoch": 2, "fingerprint": {"torch": "1"}})
FILES = {
    "adapter.safetensors",
    "optimizer.pt",
    "lr_scheduler.pt",
    "random_states.pkl",
    "train_state.json",
    "manifest.json",
}


def made(step: int = 0, *, optimizer: str = "adamw") -> TrainState:
    """A small state after `step` updates with gradients of its own."""
    adapter = attached_to_all(nn.Sequential(nn.Linear(4, 3)))
    built = build_optimizer(optimizer, adapter, base_lrs={"denoiser": 1e-2}, options={})
    state = TrainState(0, adapter, built, None, Origin(0, 1))
    for number in range(step):
        adapter.gradient().copy_(torch.randn(adapter.flat.numel(), generator=torch.Generator().manual_seed(number)))
        state.optimizer.step()
        state.step += 1
    return state


def save(run: RunFolder, state: TrainState) -> Path:
    return save_state(state, run, FACTS, run.new_state("state", NOW))[0]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "lora_output")
    folder.root.mkdir()
    return folder


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "lion", "prodigy"])
def test_the_way_back(run: RunFolder, optimizer: str) -> None:
    state = made(3, optimizer=optimizer)
    path, sha256 = save_state(state, run, FACTS, run.new_state("state", NOW))
    assert {one.name for one in path.iterdir()} == FILES
    assert sha256 == sha256_of(path / "manifest.json")
    fresh = made(optimizer=optimizer)
    described = load_state(find_states(run.root)[0][0], fresh)
    assert digest(fresh.adapter.tensors()) == digest(state.adapter.tensors())
    assert digest(fresh.optimizer.state_dict()) == digest(state.optimizer.state_dict())
    assert (fresh.step, described["epoch"]) == (3, 2)


def test_names(run: RunFolder) -> None:
    paths = [save(run, made(step)) for step in range(3)]
    assert [path.name for path in paths] == [f"state_20260102_030405{tail}" for tail in ("", "_2", "_3")]


def test_nothing_in_it_can_hold_code(run: RunFolder) -> None:
    """torch's restricted reader takes each file, and no pickle in it names anything but torch's own ways to rebuild."""
    path = save(run, made(2))
    for name in ("optimizer.pt", "lr_scheduler.pt", "random_states.pkl"):
        torch.load(path / name, weights_only=True)
        with zipfile.ZipFile(path / name) as archive:
            (pickled,) = [one for one in archive.namelist() if one.endswith("data.pkl")]
            words = [
                argument for code, argument, _ in pickletools.genops(archive.read(pickled)) if code.name == "GLOBAL"
            ]
        assert {str(word).split(" ")[0] for word in words} <= {"torch._utils", "torch", "collections"}
    assert torch.load(path / "random_states.pkl", weights_only=True)["seed"] == 42
    assert torch.load(path / "lr_scheduler.pt", weights_only=True) == {"shape": "constant", "step": 2}
    json.loads((path / "train_state.json").read_bytes())


def poisoned_adapter(state: TrainState) -> None:
    state.adapter.flat[3] = float("nan")


def poisoned_optimizer(state: TrainState) -> None:
    next(iter(state.optimizer.state.values()))["exp_avg_sq"][1] = float("inf")


@pytest.mark.parametrize("poison", [poisoned_adapter, poisoned_optimizer])
def test_numbers_that_are_not_finite_are_refused(run: RunFolder, poison: Callable[[TrainState], None]) -> None:
    state = made(2)
    poison(state)
    with pytest.raises(NonFiniteError) as caught:
        save(run, state)
    assert (caught.value.code, caught.value.fields) == ("weights_non_finite", {"step": 2})
    assert tree(run.root) == {}


def test_a_full_disk_at_each_write(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever write it is, the error names the disk, nothing of the new state is left, the earlier one is whole."""
    good = save(run, made(1))
    before = tree(run.root)
    for failing in range(len(FILES)):
        written: list[Path] = []

        def write(path: Path, data: bytes, failing: int = failing, written: list[Path] = written) -> None:
            if len(written) == failing:
                path.write_bytes(data[: len(data) // 2])
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            write_durably(path, data)
            written.append(path)

        with monkeypatch.context() as patch, pytest.raises(ResourceError) as caught:
            patch.setattr(checkpoint, "write_durably", write)
            save(run, made(2))
        assert caught.value.code == "disk_full"
        assert tree(run.root) == before
        assert damage_of(SavedState(good, 1, "identity")) is None
    assert len(written) == len(FILES) - 1
    assert save(run, made(2)).exists()


SAVING = ("state.begun", "file.opened", "file.written", "file.synced", "state.file", "state.manifest", "state.verified",
          "state.renamed", "folder.synced")  # fmt: skip


@pytest.mark.parametrize("point", [*SAVING, "prune.chosen", "prune.renamed", "prune.removed"])
def test_a_disk_that_is_full_at_any_point_is_named(run: RunFolder, point: str) -> None:
    """Also where a folder has no room for a name: whoever waits for room must see what there is to wait for."""
    for step in range(3):
        save_state(made(step), run, FACTS, run.new_state("state", NOW))
    choose_fault(f"{point}:1:no_space")
    try:
        with pytest.raises(ResourceError, match="disk_full"):
            if point in SAVING:
                save_state(made(3), run, FACTS, run.new_state("state", NOW))
            else:
                prune_states(run, keep=1)
    finally:
        choose_fault("")
    states, unreadable = find_states(run.root)
    assert unreadable == [] and [damage_of(one) for one in states] == [None] * len(states)
    assert states[0].step in (2, 3)


def test_a_disk_that_does_not_keep_what_it_was_given(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(path: Path, data: bytes) -> None:
        write_durably(path, b"\0" * len(data) if path.name == "optimizer.pt" else data)

    monkeypatch.setattr(checkpoint, "write_durably", forgetful)
    with pytest.raises(ResourceError) as caught:
        save(run, made(1))
    assert (caught.value.code, caught.value.fields["damage"]) == ("disk_unreliable", "content:optimizer.pt")
    assert tree(run.root) == {}


def test_a_kill_leaves_nothing_that_looks_like_a_state(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is hidden until it is whole, and the manifest is written last."""
    seen: list[str] = []
    really = durable.write_durably

    def watched(path: Path, data: bytes) -> None:
        really(path, data)
        seen.append(path.name)
        assert path.parent.name.startswith(".")
        assert find_states(run.root) == ([], [])

    monkeypatch.setattr(checkpoint, "write_durably", watched)
    save(run, made(1))
    assert seen[-1] == "manifest.json"
    assert len(find_states(run.root)[0]) == 1


def test_a_damaged_one_is_not_loaded(run: RunFolder) -> None:
    path = save(run, made(1))
    (path / "adapter.safetensors").write_bytes(b"")
    with pytest.raises(NoStateError) as caught:
        load_state(find_states(run.root)[0][0], made())
    assert caught.value.fields["damage"] == "size:adapter.safetensors"


def restore(path: Path, state: TrainState, environment: Mapping[str, str] | None = None, **other: Any) -> str:
    saved_in = restore_state(path, state, **{"identity": "identity", "data_identity": "data", **other})
    return changes_since(saved_in, environment or {"torch": "1"})


def test_going_on_as_it_was(run: RunFolder) -> None:
    state = made()
    assert restore(save(run, made(3)), state) == ""
    assert (state.step, state.origin) == (3, Origin(0, 1))


def test_other_pictures_begin_a_new_origin(run: RunFolder) -> None:
    state = made()
    restore(save(run, made(3)), state, data_identity="other")
    assert state.origin == Origin(step=3, epoch=3)  # the state's epoch was 2


def test_another_machine_is_told(run: RunFolder) -> None:
    marks = {"torch": "2", "device": "x", "self_check": "passed"}  # a check that was not made before has not changed
    assert restore(save(run, made(3)), made(), environment=marks) == "torch: 1 -> 2, device:  -> x"


def test_another_run_is_refused(run: RunFolder) -> None:
    with pytest.raises(ResumeError, match="state_of_other_run"):
        restore(save(run, made(1)), made(), identity="other")


def test_a_state_that_went_away_is_refused(run: RunFolder) -> None:
    with pytest.raises(NoStateError, match="state_damaged"):
        restore(run.root / "state_gone", made())


@pytest.mark.parametrize("file", ["adapter.safetensors", "optimizer.pt", "train_state.json"])
@pytest.mark.parametrize(
    "content", [b"", b"{}", pickle.dumps({"a": print}, protocol=2)], ids=["empty", "braces", "pickle"]
)
def test_what_somebody_else_put_there_and_signed_is_damage(run: RunFolder, file: str, content: bytes) -> None:
    folder = save(run, made(1))
    (folder / file).write_bytes(content)
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").write_bytes(manifest_bytes(folder, step=1, identity="identity"))
    with pytest.raises(NoStateError, match="state_damaged") as caught:
        restore(folder, made())
    assert caught.value.fields["damage"] == file


# -- keeping ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "left"), [(1, [4]), (2, [4, 3]), (3, [4, 3, 2]), (9, [4, 3, 2, 1, 0])])
def test_the_newest_are_kept(run: RunFolder, keep: int, left: list[int]) -> None:
    for step in (2, 0, 4, 1, 3):  # by step, not by name or date
        save(run, made(step))
    removed = prune_states(run, keep=keep)
    assert [state.step for state in find_states(run.root)[0]] == left
    assert len(removed) == 5 - len(left)
    assert all(not path.name.startswith(".") for path in run.root.iterdir())


def test_protected_ones_are_kept(run: RunFolder) -> None:
    for step in range(4):
        save(run, made(step))
    prune_states(run, keep=1, protect=frozenset({0}))
    assert [state.step for state in find_states(run.root)[0]] == [3, 0]


@pytest.mark.parametrize("name", sorted(FILES))
def test_nothing_is_removed_while_the_newest_is_damaged(run: RunFolder, name: str) -> None:
    """The older ones may be the only good ones."""
    for step in range(3):
        path = save(run, made(step))
    (path / name).write_bytes((path / name).read_bytes()[:-1] + b"?")
    before = tree(run.root)
    # Without its manifest it is no state at all: then the newest of the others decides.
    kept = prune_states(run, keep=3 if name == "manifest.json" else 1)
    assert kept == []
    assert tree(run.root) == before


def test_there_is_nothing_to_remove(run: RunFolder) -> None:
    assert prune_states(run, keep=1) == []


def test_half_removed_it_does_not_look_like_a_state(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in range(2):
        save(run, made(step))
    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: (path / "optimizer.pt").unlink())
    prune_states(run, keep=1)
    states, unreadable = find_states(run.root)
    assert ([state.step for state in states], unreadable) == ([1], [])


# -- going back ------------------------------------------------------------------------------------


def test_stepping_back_moves_what_lies_above(run: RunFolder) -> None:
    states = {step: save(run, made(step)) for step in (0, 2, 4)}
    for name in ("last.safetensors", "last-step00000002.safetensors", "last-step00000004.safetensors", "notes.txt"):
        (run.root / name).write_text(name)
    for step in (2, 4):
        (run.samples / f"step-{step:08d}").mkdir(parents=True)
        (run.samples / f"step-{step:08d}" / "1.png").write_text("x")
    before = tree(run.root)
    backup = step_back(run, 2, now=NOW)
    assert backup == run.backup / "run_20260102_030405"
    moved = {states[4].name, "last-step00000004.safetensors", "samples"}
    assert {path.name for path in backup.iterdir()} == moved
    assert (backup / "samples" / "step-00000004" / "1.png").exists()
    left = tree(run.root)
    assert {**left, **{name: value for name, value in tree(backup).items() if name not in left}} == before
    assert [state.step for state in find_states(run.root)[0]] == [2, 0]
    assert damage_of(SavedState(backup / states[4].name, 4, "identity")) is None


def test_stepping_back_to_where_one_stands_does_nothing(run: RunFolder) -> None:
    save(run, made(2))
    before = tree(run.root.parent)
    assert step_back(run, 2, now=NOW) is None
    assert tree(run.root.parent) == before


@pytest.mark.parametrize(("free", "is_enough"), [(10**9, True), (100, False)])
def test_room(run: RunFolder, monkeypatch: pytest.MonkeyPatch, free: int, is_enough: bool) -> None:
    usage = shutil.disk_usage(run.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    if is_enough:
        check_disk_space(run, made())
    else:
        with pytest.raises(InputError, match="disk_too_full"):
            check_disk_space(run, made())


def test_what_is_pruned_has_lost_its_name_on_the_disk_before_its_files(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut between the two must not show a state that is half removed."""
    for step in (1, 2, 3, 4):
        save(run, made(step))
    seen: list[str] = []
    removing = shutil.rmtree

    def synced(folder: Path) -> None:
        seen.append(f"synced {len(find_states(run.root)[0])}")

    def removed(folder: Path, **_: Any) -> None:
        seen.append("removed")
        removing(folder)

    monkeypatch.setattr(checkpoint, "sync_folder", synced)
    monkeypatch.setattr(shutil, "rmtree", removed)
    assert len(prune_states(run, keep=2)) == 2
    assert seen == ["synced 2", "removed", "removed"]
    assert prune_states(run, keep=2) == [] and len(seen) == 3


@pytest.mark.parametrize("what", ["name", "files"])
def test_what_the_system_does_not_let_go_of_ends_nothing(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A file that a program on Windows holds open, or a state that somebody protected: tried again the next time."""
    for step in (1, 2, 3):
        save(run, made(step))
    (oldest,) = [state.path for state in find_states(run.root)[0] if state.step == 1]
    rename, unlink = Path.rename, os.unlink

    def held_rename(self: Path, target: Path) -> Path:
        if self == oldest:
            raise PermissionError(13, "held open")
        return rename(self, target)

    def held_unlink(path: Any, *given: Any, **more: Any) -> None:
        if os.fspath(path).endswith("manifest.json"):
            raise PermissionError(13, "held open")
        unlink(path, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(*(Path, "rename", held_rename) if what == "name" else (os, "unlink", held_unlink))
        prune_states(run, keep=1)
    steps = [state.step for state in find_states(run.root)[0]]
    assert steps == ([3, 1] if what == "name" else [3])
    save(run, made(4))
    prune_states(run, keep=1)
    assert [state.step for state in find_states(run.root)[0]] == [4]
    remove_unfinished(run)
    assert [path.name for path in run.root.glob(".*")] == []
