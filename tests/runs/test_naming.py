from datetime import datetime
from pathlib import Path
from typing import Literal

import pytest

from lorasmith.config import ExportConfig, RunConfig, dump_run_toml
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.naming import FileNames, NamedState, named_state, naming_of, output_of

NOON = datetime(2025, 3, 4, 12, 5, 6)


def names(tmp_path: Path, output_name: str | None) -> FileNames:
    run = RunFolder(Path(output_of(str(tmp_path / "out"), output_name)))
    export = ExportConfig.model_validate({"name": output_name or "last", "naming": naming_of(output_name)})
    return FileNames(run, export)


def listed(named: FileNames) -> list[str]:
    paths = named.last, named.of_epoch(1, 10), named.of_step(20), named.state(10, 1, NOON), named.state(20, None, NOON)
    return [path.relative_to(named.run.root.parent).as_posix() for path in paths]


def test_the_names_are_those_of_sd_scripts(tmp_path: Path) -> None:
    """As a run of it listed its folder, its states aside, which lie in the run folder here."""
    assert listed(names(tmp_path, "cat")) == [
        "cat.safetensors",
        "cat-000001.safetensors",
        "cat-step00000020.safetensors",
        "cat-run/cat-000001-state",
        "cat-run/cat-step00000020-state",
    ]
    assert listed(names(tmp_path, None)) == [
        "last.safetensors",
        "epoch-000001.safetensors",
        "at-step00000020.safetensors",
        "last-run/epoch-000001-state",
        "last-run/at-step00000020-state",
    ]


def test_own_names_are_in_the_run_folder(tmp_path: Path) -> None:
    named = FileNames(RunFolder(tmp_path / "lora_output"), ExportConfig())
    assert named.recorded(named.last) == "last.safetensors"
    assert named.state(1, 1, NOON) == tmp_path / "lora_output/state_20250304_120506"
    named.run.root.mkdir()
    named.last.touch()
    assert named.beside() == []


@pytest.mark.parametrize("naming", ["own", "sd-scripts"])
def test_a_second_file_is_of_the_run(tmp_path: Path, naming: Literal["own", "sd-scripts"]) -> None:
    named = FileNames(RunFolder(tmp_path / "cat-run"), ExportConfig(name="cat", naming=naming, format="kohya"))
    assert named.other == named.folder / "cat-kohya.safetensors"
    assert named.is_of("cat-kohya.safetensors") and not named.is_of("cat-comfyui.safetensors")
    assert not names(tmp_path, "cat").is_of("cat-kohya.safetensors")


def test_only_files_of_the_name_belong_to_the_run(tmp_path: Path) -> None:
    named = names(tmp_path, "c[a]t")
    own = ["c[a]t.safetensors", "c[a]t-000012.safetensors", "c[a]t-step00000020.safetensors", "c[a]t-best.safetensors"]
    others = [
        "cat.safetensors",
        "c[a]t-v2.safetensors",
        "c[a]t-000012.txt",
        "c[a]t2.safetensors",
        "c[a]t-stepmother.safetensors",
        "c[a]t-step00000020_v2.safetensors",
        "at-000001.safetensors",
    ]
    named.run.root.mkdir(parents=True)
    for name in own + others:
        (named.folder / name).touch()
    assert sorted(path.name for path in named.beside()) == sorted(own)
    assert all((named.run.root / named.recorded(path)).exists() for path in named.beside())


@pytest.mark.parametrize(
    ("output_name", "typed", "state"),
    [
        ("cat", "cat-000002-state", "cat-000002-state"),
        ("cat", "cat-step00000100-state", "cat-step00000100-state"),
        ("cat", "cat-state", ""),
        (None, "epoch-000002-state", "epoch-000002-state"),
        (None, "last-state", ""),
        ("cat", "cat-run/cat-000002-state", "cat-000002-state"),
    ],
)
def test_resume_finds_states_by_the_names_of_sd_scripts(
    tmp_path: Path, output_name: str | None, typed: str, state: str
) -> None:
    run = names(tmp_path, output_name).run
    (run.root / "cat-000002-state").mkdir(parents=True)
    run.config.write_bytes(dump_run_toml(RunConfig()))
    assert named_state(tmp_path / "out" / typed) == NamedState(run, state)


@pytest.mark.parametrize("typed", ["dog-000002-state", "cat-000002", "cat-run"])
def test_resume_finds_nothing_by_other_names(tmp_path: Path, typed: str) -> None:
    run = names(tmp_path, "cat").run
    run.root.mkdir(parents=True)
    run.config.write_bytes(dump_run_toml(RunConfig()))
    assert named_state(tmp_path / "out" / typed) is None
