"""Paths of a run inside its project are relative in run.toml, and absolute everywhere else."""

import tomllib
from pathlib import Path

import pytest

from lorasmith.config import RunConfig, dump_run_toml, load_run_toml

FOLDER, BASE, CLIP = ("dataset", "folder"), ("model", "base_model"), ("evaluation", "clip_model")


@pytest.mark.parametrize(("output", "project"), [("lora_output", ".."), ("runs/a", "../..")])
def test_what_lies_inside_goes_with_the_project(tmp_path: Path, output: str, project: str) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    config = RunConfig().with_values(
        {
            FOLDER: str(first / "lora_train_set"),
            BASE: str(first / "models" / "a.safetensors"),
            CLIP: str(tmp_path / "elsewhere" / "clip"),
            ("machine", "project"): project,
        }
    )
    for place in (first, second):
        (place / output).mkdir(parents=True)
        (place / output / "run.toml").write_bytes(dump_run_toml(config, first / output))
    plain = tomllib.loads((first / output / "run.toml").read_text())
    assert (plain["dataset"]["folder"], plain["model"]["base_model"]) == ("./lora_train_set", "./models/a.safetensors")
    assert load_run_toml(first / output / "run.toml") == config
    there = load_run_toml(second / output / "run.toml")
    assert there.dataset.folder == str(second / "lora_train_set")
    assert there.model.base_model == str(second / "models" / "a.safetensors")
    assert there.evaluation.clip_model == str(tmp_path / "elsewhere" / "clip")
    assert there.identity() == config.identity()


def test_names_that_are_no_paths_and_old_files_stay_as_they_are(tmp_path: Path) -> None:
    config = RunConfig().with_values({FOLDER: str(tmp_path / "a"), BASE: "owner/name"})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.toml").write_bytes(dump_run_toml(config))
    assert load_run_toml(tmp_path / "out" / "run.toml") == config
    demo = config.with_values({BASE: "demo"})
    assert tomllib.loads(dump_run_toml(demo, tmp_path / "out").decode())["model"]["base_model"] == "demo"


def test_a_project_behind_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    (real / "out").mkdir(parents=True)
    link.symlink_to(real)
    config = RunConfig().with_values({FOLDER: str(real / "pictures")})
    (link / "out" / "run.toml").write_bytes(dump_run_toml(config, link / "out"))
    assert tomllib.loads((real / "out" / "run.toml").read_text())["dataset"]["folder"] == "./pictures"
    assert load_run_toml(link / "out" / "run.toml") == config
