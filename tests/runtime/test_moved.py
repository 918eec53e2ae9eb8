"""A project that was copied or moved goes on with what lies in it, and says what lies elsewhere than before."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lorasmith.config import dump_run_toml, load_run_toml
from lorasmith.errors import ExitCode
from lorasmith.runs.events import RunStarted
from lorasmith.runtime.preflight import Start
from tests.end_to_end.workshop import Workshop

MakeWorkshop = Callable[[str], Workshop]


def with_pictures(workshop: Workshop) -> Workshop:
    """Its pictures inside, instead of behind a link."""
    link = workshop.folder / "lora_train_set"
    real = link.resolve()
    link.unlink()
    shutil.copytree(real, link)
    return workshop


def start_of(workshop: Workshop) -> Start:
    from lorasmith.config import Request
    from lorasmith.runtime.preflight import continued_run

    return continued_run(workshop.run, {}, Request(steps=1), from_state="", here=workshop.folder)


def said(start: Start) -> dict[str, dict[str, Any]]:
    return {fields.get("option", code): fields for code, fields in start.warnings}


def elsewhere(workshop: Workshop, folder: Path) -> Workshop:
    return Workshop(folder, workshop.base_model, workshop.monkeypatch)


def as_older_versions_wrote_it(workshop: Workshop) -> None:
    """Absolute paths, and no folder of the run in the ledger."""
    workshop.run.config.write_bytes(dump_run_toml(load_run_toml(workshop.run.config)))
    text = workshop.run.ledger.read_text(encoding="utf-8")
    workshop.run.ledger.write_text(text.replace(f'"root": "{workshop.run.root}"', '"root": ""'), encoding="utf-8")


def test_a_copy_trains_on_its_own_pictures_and_says_so(make_workshop: MakeWorkshop, tmp_path: Path) -> None:
    workshop = with_pictures(make_workshop("first"))
    workshop.new(1)
    assert said(start_of(workshop)) == {}
    copy = elsewhere(workshop, Path(shutil.copytree(workshop.folder, tmp_path / "copy")))
    start = start_of(copy)
    lines = said(start)
    assert lines["run_elsewhere"] == {"before": str(workshop.run.root), "now": str(copy.run.root)}
    assert lines["data"]["now"] == str(copy.folder / "lora_train_set") == start.config.dataset.folder
    outcome = copy.watch(start)
    assert outcome.exit_code == ExitCode.FINISHED
    (started,) = outcome.of(RunStarted)
    assert {Path(one["path"]).parts[: len(copy.folder.parts)] for one in started.examples} == {copy.folder.parts}
    assert said(start_of(copy)) == {}  # once


def test_a_project_that_was_moved_goes_on(make_workshop: MakeWorkshop, tmp_path: Path) -> None:
    workshop = with_pictures(make_workshop("first"))
    workshop.new(1)
    moved = elsewhere(workshop, workshop.folder.rename(tmp_path / "moved"))
    assert moved.go_on(1).exit_code == ExitCode.FINISHED
    assert moved.train_state()["step"] == 2


def test_an_output_that_was_moved_alone_finds_the_pictures_where_they_were(
    make_workshop: MakeWorkshop, tmp_path: Path
) -> None:
    workshop = with_pictures(make_workshop("first"))
    workshop.new(1)
    alone = elsewhere(workshop, tmp_path / "alone")
    alone.folder.mkdir()
    workshop.run.root.rename(alone.run.root)
    start = start_of(alone)
    assert start.config.dataset.folder == str(workshop.folder / "lora_train_set")
    assert set(said(start)) == {"run_elsewhere"}


def test_runs_of_older_versions(make_workshop: MakeWorkshop, tmp_path: Path) -> None:
    """In place as ever; a copy says whose pictures it reads; moved, those that lie beside it are found."""
    workshop = with_pictures(make_workshop("first"))
    workshop.new(1)
    as_older_versions_wrote_it(workshop)
    assert said(start_of(workshop)) == {}
    copy = elsewhere(workshop, Path(shutil.copytree(workshop.folder, tmp_path / "copy")))
    first, beside = workshop.folder / "lora_train_set", copy.folder / "lora_train_set"
    assert said(start_of(copy)) == {"data_beside_unused": {"folder": str(first), "beside": str(beside)}}
    shutil.rmtree(first)
    assert start_of(copy).config.dataset.folder == str(beside)
    assert said(start_of(copy))["data"] == {"option": "data", "before": str(first), "now": str(beside)}


def test_folders_of_subsets_are_found_again(make_workshop: MakeWorkshop, tmp_path: Path) -> None:
    workshop = with_pictures(make_workshop("first"))
    shutil.copytree(workshop.folder / "lora_train_set", workshop.folder / "more")
    tables = ({"resolution": 64}, {"data": "more"}, {"data": str(workshop.folder / "more"), "is_reg": True})
    assert workshop.new(1, {("dataset", "subsets"): tables}).exit_code == ExitCode.FINISHED
    moved = elsewhere(workshop, workshop.folder.rename(tmp_path / "moved"))
    assert moved.go_on(1).exit_code == ExitCode.FINISHED
    folders = [subset.folder for subset in load_run_toml(moved.run.config).subsets()]
    assert folders == [str(moved.folder / name) for name in ("lora_train_set", "more", "more")]
