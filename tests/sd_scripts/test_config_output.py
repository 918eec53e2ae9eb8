from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from lorasmith.errors import ConfigError
from lorasmith.sd_scripts.command_line import parsed
from lorasmith.sd_scripts.config_output import write_config


def test_what_differs_from_the_defaults_is_written_and_read_again(tmp_path: Path) -> None:
    line = r"--network_dim 8 --learning_rate 2e-6 --xformers --network_args a=1 --output_dir C:\xl --wandb_api_key k"
    given = parsed(line.split(), "train_network", tmp_path)
    write_config(given, tmp_path / "new.toml")
    written = tomllib.loads((tmp_path / "new.toml").read_text())
    assert written == {"network_dim": 8, "xformers": True, "network_args": ["a=1"], "output_dir": r"C:\xl"}
    again = parsed(["--config_file", "new"], "train_network", tmp_path)
    assert {name: value for name, value in again.values.items() if name != "config_file"} == written


def test_a_file_that_exists_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "old.toml"
    path.write_text("seed = 1\n")
    with pytest.raises(ConfigError, match="sd_config_exists"):
        write_config(parsed([], "train_network", tmp_path), path)
    assert path.read_text() == "seed = 1\n"


def test_a_folder_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sd_config_not_written"):
        write_config(parsed([], "train_network", tmp_path), tmp_path / "gone" / "a.toml")
