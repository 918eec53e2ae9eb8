"""A command line and the settings that it becomes, for tests."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from lorasmith.config import options
from lorasmith.errors import ConfigError
from lorasmith.sd_scripts.arguments import Script
from lorasmith.sd_scripts.command_line import parsed
from lorasmith.sd_scripts.translate import Translation, translated


def translation(line: str, here: Path = Path("/nowhere"), script: Script = "train_network") -> Translation:
    return translated(parsed(shlex.split(line), script, here))


def settings(line: str, here: Path = Path("/nowhere"), script: Script = "train_network") -> dict[str, Any]:
    """The settings by the name of the option."""
    names = {(option.section, option.field_name): option.name for option in options().values()}
    return {names.get(at, ".".join(at)): value for at, value in translation(line, here, script).values.items()}


def refusal(line: str, here: Path = Path("/nowhere"), script: Script = "train_network") -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        translation(line, here, script)
    return caught.value
