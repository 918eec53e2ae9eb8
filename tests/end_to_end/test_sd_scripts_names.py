"""Runs whose files have sd-scripts' names: several in a folder, none of which touches another's files."""

from pathlib import Path

import pytest
import safetensors.torch

from lorasmith.errors import ExitCode
from lorasmith.evaluation import evaluator
from lorasmith.reading.reader import RunReader
from lorasmith.reading.status import read_status
from lorasmith.runs.events import AdapterExported, BestChosen, Evaluated
from lorasmith.runs.naming import naming_of, output_of
from lorasmith.runs.states import find_states
from tests.end_to_end.workshop import Values, Workshop, digest

STEP = {("cadence", "save_every"): 2}


@pytest.fixture
def outputs(workshop: Workshop) -> Path:
    """A person's own folder of LoRAs, with one of the same name and one of another."""
    folder = workshop.folder / "loras"
    folder.mkdir()
    (folder / "cat.safetensors").write_bytes(b"trained elsewhere")
    (folder / "cat-000001.safetensors").write_bytes(b"its first epoch")
    (folder / "other.safetensors").write_bytes(b"of mine")
    return folder


def named(workshop: Workshop, name: str | None, **more: int) -> Values:
    workshop.output = output_of("loras", name)
    return {("export", "name"): name or "last", ("export", "naming"): naming_of(name), **STEP}


def loras(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.safetensors"))


def test_several_names_share_a_folder(workshop: Workshop, outputs: Path) -> None:
    assert workshop.new(4, named(workshop, "cat")).exit_code == ExitCode.FINISHED
    of_cat = ["cat-step00000002.safetensors", "cat-step00000004.safetensors", "cat.safetensors"]
    assert loras(outputs) == sorted([*of_cat, "other.safetensors"])
    assert (outputs / "other.safetensors").read_bytes() == b"of mine"
    backup = outputs / "cat-run_backup"
    assert [path.read_bytes() for path in backup.glob("cat_backup_*.safetensors")] == [b"trained elsewhere"]
    assert [path.read_bytes() for path in backup.glob("run_*/cat-000001.safetensors")] == [b"its first epoch"]
    assert sorted(path.name for path in workshop.run.root.glob("*-state")) == [
        "cat-step00000000-state",
        "cat-step00000002-state",
        "cat-step00000004-state",
    ]
    cat = (outputs / "cat.safetensors").read_bytes()
    assert workshop.new(1, named(workshop, None)).exit_code == ExitCode.FINISHED
    assert "last.safetensors" in loras(outputs)
    assert (outputs / "cat.safetensors").read_bytes() == cat


def test_a_run_continues_and_steps_back_by_these_names(workshop: Workshop, outputs: Path) -> None:
    workshop.new(4, named(workshop, "cat"))
    fourth = (outputs / "cat-step00000004.safetensors").read_bytes()
    outcome = workshop.go_on(2, from_state="cat-step00000002-state")
    assert outcome.exit_code == ExitCode.FINISHED
    moved = list((outputs / "cat-run_backup").glob("run_*/cat-step00000004.safetensors"))
    assert [path.read_bytes() for path in moved] == [fourth]
    status = read_status(RunReader(workshop.run), now=0.0)
    assert status.files.lora == outputs / "cat.safetensors"
    assert status.files.lora_step == 4
    assert [path.name for path in status.files.step_loras] == [
        "cat-step00000002.safetensors",
        "cat-step00000004.safetensors",
    ]


@pytest.mark.ci
def test_stepping_back_moves_a_later_best_step_with_its_run(
    workshop: Workshop, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluator, "MAX_SHARE", 1.0)
    values = {**named(workshop, "cat"), ("evaluation", "every"): 2, ("dataset", "hold_out"): 1}
    outcome = workshop.new(4, {**values, ("optimizer", "lr"): 1e-3})
    assert [event.step for event in outcome.of(BestChosen)][-1] == 4
    best = (outputs / "cat-best.safetensors").read_bytes()
    assert workshop.go_on(1, from_state="2").exit_code == ExitCode.FINISHED
    moved = list((outputs / "cat-run_backup").glob("run_*/cat-best.safetensors"))
    assert [path.read_bytes() for path in moved] == [best]


@pytest.mark.ci
def test_the_best_step_lies_beside_the_others(workshop: Workshop, outputs: Path) -> None:
    values = {**named(workshop, "cat"), ("evaluation", "every"): 2, ("dataset", "hold_out"): 1}
    outcome = workshop.new(2, values)
    (best,) = outcome.of(BestChosen)
    assert best.path == "../cat-best.safetensors"
    assert (outputs / "cat-best.safetensors").read_bytes() == (outputs / "cat.safetensors").read_bytes()
    assert {event.path for event in outcome.of(AdapterExported)} == {
        "../cat-step00000002.safetensors",
        "../cat.safetensors",
    }


@pytest.mark.ci
def test_epochs_have_files_and_states_of_their_own(
    workshop: Workshop, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eleven batches an epoch, four of them a step: epochs end at steps 3, 6, 9 and 11, which is the end of the run."""
    monkeypatch.setattr(evaluator, "MAX_SHARE", 1.0)
    values = {
        **named(workshop, "cat"),
        ("cadence", "save_every"): 0,
        ("cadence", "save_every_n_epochs"): 1,
        ("cadence", "save_last_n_epochs"): 2,
        ("training", "accumulation_steps"): 4,
        ("evaluation", "every"): None,
        ("evaluation", "every_n_epochs"): 2,
        ("evaluation", "at_first"): True,
    }
    outcome = workshop.new(11, values, stop_after=7)
    assert outcome.exit_code == ExitCode.STOPPED
    outcome = workshop.go_on(None)
    assert loras(outputs) == [
        "cat-000002.safetensors",
        "cat-000003.safetensors",
        "cat.safetensors",
        "other.safetensors",
    ]
    states = {state.path.name: state.step for state in find_states(workshop.run.root)[0]}
    assert states == {"cat-step00000011-state": 11, "cat-000003-state": 9, "cat-step00000007-state": 7}
    evaluated = [event.step for event in workshop.events() if isinstance(event, Evaluated) and not event.is_control]
    assert evaluated == [0, 6, 11]
    straight = digest_of(outputs / "cat.safetensors")
    assert workshop.new(11, values).exit_code == ExitCode.FINISHED
    assert digest_of(outputs / "cat.safetensors") == straight


def digest_of(path: Path) -> str:
    return digest(safetensors.torch.load_file(path))
