"""Commands for sd-scripts as people publish them become the runs that their authors meant."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from lorasmith.config import RunConfig
from lorasmith.errors import ConfigError
from lorasmith.runtime.settings import check_layers, check_settings
from lorasmith.sd_scripts.launcher import without_launcher
from lorasmith.ui.options import split_request
from tests.sd_scripts.translating import settings, translation

COMMANDS: list[dict[str, Any]] = [
    command
    for file in sorted(Path(__file__).parent.glob("published_commands*.toml"))
    for command in tomllib.loads(file.read_text(encoding="utf-8"))["command"]
]
FAMILIES = {
    "sdxl_train_network": "sdxl",
    "flux_train_network": "flux1",
    "anima_train_network": "anima",
    "zimage_train_network": "zimage",
    "krea2_train_network": "krea2",
    "flux_2_train_network": "flux2_klein",
}

MEANT, REFUSED = ([command for command in COMMANDS if ("refused" in command) is wrong] for wrong in (False, True))


def written(command: dict[str, Any], folder: Path) -> list[str]:
    """The words of the command, whose files lie in the folder."""
    for name in ("config", "dataset"):
        (folder / f"{name}.toml").write_text(command.get(name, ""), encoding="utf-8")
    return shlex.split(command["line"].replace("\\", "\\\\"))


@pytest.mark.parametrize("command", REFUSED, ids=lambda command: command["source"][:50])
def test_a_published_command_that_asks_for_something_else_is_refused(command: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^{command['refused']}"):
        words, script = without_launcher(written(command, tmp_path), "train_network")
        translation(shlex.join(words), tmp_path, script)


@pytest.mark.parametrize("command", MEANT, ids=lambda command: command["source"][:50])
def test_a_published_command_is_the_run_that_its_author_meant(command: dict[str, Any], tmp_path: Path) -> None:
    words, script = without_launcher(written(command, tmp_path), "train_network")
    found = settings(shlex.join(words), tmp_path, script)
    values, request = split_request(translation(shlex.join(words), tmp_path, script).values)
    config = RunConfig().with_values(values)
    check_settings(config, request)
    check_layers(config, FAMILIES.get(script, "sd15"))
    assert {name: found[name] for name in command["means"]} == command["means"]
    subsets = found.get("dataset.subsets", [])
    assert len(subsets) == len(command.get("subsets", []))
    for subset, expected in zip(subsets, command.get("subsets", []), strict=True):
        assert {key: subset[key] for key in expected} == expected
