"""Runs whose files have sd-scripts' names: several in a folder, none of which touches another's files."""

from pathlib import Path

import pytest

from lorasmith.errors import ExitCode
from lorasmith.reading.reader import RunReader
from lorasmith.reading.status import read_status
from lorasmith.runs.events import AdapterExported, BestChosen
from lorasmith.runs.naming import naming_of, output_of
from tests.end_to_end.workshop import Values, Workshop

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
