"""What --continue makes of a run: going back, other pictures, damaged states. Through real runs in this process."""

import importlib.metadata
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorasmith.engine.device import environment
from lorasmith.errors import ExitCode
from lorasmith.runs.events import CheckpointSaved, RunStarted, StepCompleted
from lorasmith.runs.ledger import read_events
from lorasmith.runs.states import find_states, set_aside
from lorasmith.session import build
from lorasmith.session.outputs import Outputs
from tests.end_to_end.workshop import Workshop, load, stage, tree

MakeWorkshop = Callable[[str], Workshop]
EVERY: dict[tuple[str, str], Any] = {("cadence", "save_every"): 2, ("cadence", "keep_states"): 9}


def origin(workshop: Workshop) -> dict[str, int]:
    found: dict[str, int] = workshop.train_state()["counters"]["origin"]
    return found


# -- going back ------------------------------------------------------------------------------------


def test_going_on_from_an_older_state(make_workshop: MakeWorkshop) -> None:
    """N counts from it, what lies above is in the backup, and the bytes are those of a run that never went further."""
    back, straight = make_workshop("back"), make_workshop("straight")
    back.new(6, EVERY)
    straight.new(5, EVERY)
    before = tree(back.run.root)
    outcome = back.go_on(3, from_state="2")
    assert outcome.exit_code == ExitCode.FINISHED
    (started,) = outcome.of(RunStarted)
    assert (started.resumed_from, started.stop_at) == (2, 5)
    assert back.states() == [5, 4, 2, 0]
    assert back.digest() == straight.digest()
    assert back.losses() == straight.losses()

    (backup,) = back.run.backup.glob("run_*")
    moved = sorted(path.name for path in backup.iterdir())
    states = [name for name in moved if name.startswith("state_")]
    assert len(states) == 2
    assert sorted(set(moved) - set(states)) == ["last-step00000004.safetensors", "last-step00000006.safetensors"]
    assert {name: value for name, value in tree(backup).items() if value} == {
        name: value for name, value in before.items() if value and name in tree(backup)
    }
    (warned,) = outcome.warned
    assert (warned.code, warned.fields) == ("stepped_back", {"step": 2, "backup": str(backup)})


def test_by_the_name_of_its_folder(workshop: Workshop) -> None:
    workshop.new(4, EVERY)
    names = {state.step: state.path.name for state in find_states(workshop.run.root)[0]}
    workshop.go_on(1, from_state=names[2])
    assert workshop.train_state()["step"] == 3
    assert workshop.states() == [3, 2, 0]


@pytest.mark.ci
def test_then_plain_continue_counts_from_there(workshop: Workshop) -> None:
    """The steps that were taken back are not counted any more."""
    workshop.new(6, EVERY)
    workshop.go_on(1, from_state="2")
    outcome = workshop.go_on(1)
    (started,) = outcome.of(RunStarted)
    assert (started.resumed_from, started.stop_at) == (3, 4)
    assert [event.step for event in workshop.events() if isinstance(event, StepCompleted)] == [1, 2, 3, 4]


def test_nothing_moves_where_loading_fails(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop.new(4, EVERY)
    log = str(workshop.run.supervisor_log.relative_to(workshop.folder))  # which tells of the attempts
    before = {name: content for name, content in tree(workshop.folder).items() if name != log}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: (_ for _ in ()).throw(OSError("gone")))
    assert workshop.go_on(1, from_state="2").exit_code == ExitCode.CRASHED
    assert {name: content for name, content in tree(workshop.folder).items() if name != log} == before


def test_nothing_moves_without_a_named_state(workshop: Workshop) -> None:
    workshop.new(4, EVERY)
    outcome = workshop.go_on(1)
    assert outcome.warned == []
    assert not list(workshop.run.backup.glob("run_*"))
    assert workshop.states() == [5, 4, 2, 0]


# -- damage ----------------------------------------------------------------------------------------


def test_a_damaged_state_is_set_aside_and_the_next_one_used(make_workshop: MakeWorkshop) -> None:
    """The steps between are done again on top: the target counts from the highest step recorded as saved."""
    hurt, straight = make_workshop("hurt"), make_workshop("straight")
    hurt.new(4, EVERY)
    straight.new(6, EVERY)
    damaged = hurt.state_folder()
    (damaged / "adapter.safetensors").write_bytes(b"x")
    outcome = hurt.go_on(2)
    warned, moved = outcome.warned
    assert (warned.code, warned.fields["state"]) == ("state_set_aside", damaged.name)
    # The export of step 4 is about to be written again: nothing is overwritten.
    assert (moved.code, moved.fields["step"]) == ("stepped_back", 2)
    assert [path.name for path in Path(moved.fields["backup"]).iterdir()] == ["last-step00000004.safetensors"]
    assert (hurt.run.root / warned.fields["aside"] / "adapter.safetensors").read_bytes() == b"x"
    # Its name is free, and may be that of a state saved within the same second.
    assert not damaged.exists() or (damaged / "adapter.safetensors").read_bytes() != b"x"
    (started,) = outcome.of(RunStarted)
    assert (started.resumed_from, started.stop_at) == (2, 6)
    assert [event.step for event in outcome.of(StepCompleted)] == [3, 4, 5, 6]
    assert hurt.digest() == straight.digest()


@pytest.mark.ci
def test_one_set_aside_by_somebody_who_died_before_he_could_say_so_is_told_once(workshop: Workshop) -> None:
    workshop.new(4, EVERY)
    set_aside(workshop.state_folder())
    first, second = workshop.go_on(None), workshop.go_on(1)
    (told,) = [one.fields for one in first.warned if one.code == "state_set_aside"]
    assert told["aside"] == f"{told['state']}.damaged"
    assert (workshop.run.root / told["aside"]).is_dir()
    assert second.warned == []


@pytest.mark.ci
def test_a_state_without_a_readable_manifest_is_set_aside(workshop: Workshop) -> None:
    workshop.new(4, EVERY)
    damaged = workshop.state_folder()
    (damaged / "manifest.json").write_bytes(b"{")
    outcome = workshop.go_on(None)
    assert [one.fields["state"] for one in outcome.warned if one.code == "state_set_aside"] == [damaged.name]
    assert outcome.exit_code == ExitCode.FINISHED
    assert workshop.train_state()["step"] == 4


def test_other_software_is_told(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop.new(1)
    monkeypatch.setattr(build, "environment", lambda *given, **named: {**environment(*given, **named), "torch": "9.9"})
    outcome = workshop.go_on(1)
    (warned,) = outcome.warned
    assert (warned.code, warned.attempt) == ("fingerprint_changed", 2)
    assert warned.fields["changed"].startswith("torch: ")
    assert outcome.exit_code == ExitCode.FINISHED


@pytest.mark.ci
def test_another_version_of_the_optimizers_library_is_told(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """It decides what an update is."""
    workshop.new(1, {("optimizer", "name"): "lion"})
    really = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda package: "0.1" if package == "lion-pytorch" else really(package)
    )
    (warned,) = workshop.go_on(1).warned
    assert warned.fields["changed"] == f"optimizer: lion-pytorch {really('lion-pytorch')} -> lion-pytorch 0.1"


# -- beginning -------------------------------------------------------------------------------------


def test_loading_alone_writes_nothing_but_the_cache(workshop: Workshop) -> None:
    workshop.run.root.mkdir()
    stage(workshop.start_new(2))
    before = set(tree(workshop.folder))
    load(workshop.run, stop_at=2)
    new = set(tree(workshop.folder)) - before
    assert new == {"lora_output.starting/early.jsonl", "lora_output.starting/heartbeat"}


def test_auto_is_stored_resolved(workshop: Workshop) -> None:
    workshop.new(1)
    (started,) = [event for event in workshop.events() if isinstance(event, RunStarted)]
    model = started.settings["model"]
    assert model["precision"] == "fp32"
    assert model["prediction"] == "epsilon"
    assert len(model["base_sha256"]) == 64
    assert started.settings["machine"]["threads"] >= 1
    assert started.settings["lr_schedule"]["horizon_steps"] is None


def test_the_thread_count_is_set_again(workshop: Workshop) -> None:
    import torch

    workshop.new(1)
    torch.set_num_threads(2)
    outcome = workshop.go_on(1)
    assert outcome.warned == []
    assert torch.get_num_threads() == 1


def test_a_beginning_that_fails_lets_go_of_its_files(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest would complain of files that nobody closed."""

    def fail(self: Outputs, state: Any) -> None:
        raise OSError("no")

    monkeypatch.setattr(Outputs, "save", fail)
    assert workshop.new(1).exit_code == ExitCode.CRASHED


def test_a_new_run_moves_the_old_one_to_the_backup(workshop: Workshop) -> None:
    workshop.new(2)
    old = tree(workshop.run.root)
    workshop.new(1)
    (backup,) = workshop.run.backup.glob("run_*")
    kept = set(tree(backup).values()) | {value for value in tree(workshop.run.backup).values() if value}
    assert {value for name, value in old.items() if not name.startswith("supervisor")} <= kept
    saved = [event.step for event in read_events(workshop.run.ledger) if isinstance(event, CheckpointSaved)]
    assert saved == [0, 1]
    assert list(workshop.run.backup.glob("last_backup_*.safetensors"))


def test_the_cache_may_lie_elsewhere(workshop: Workshop) -> None:
    assert Path(workshop.folder / ".lorasmith_cache").is_symlink()
    workshop.new(1)
    assert not [path for path in workshop.run.root.rglob("*cache*")]
