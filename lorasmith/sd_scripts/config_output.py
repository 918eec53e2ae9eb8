"""Writes `--output_config`: the arguments that differ from sd-scripts' defaults, as a `--config_file`."""

from __future__ import annotations

from pathlib import Path

import tomli_w

from lorasmith.errors import ConfigError
from lorasmith.runs.durable import map_disk_full, write_atomically
from lorasmith.sd_scripts.command_line import Given

LEFT_OUT = frozenset({"config_file", "output_config", "wandb_api_key", "huggingface_token"})  # the last two are secrets


def write_config(given: Given, path: Path) -> None:
    """Writes the arguments to a file that does not exist yet.

    Raises:
        ConfigError: `sd_config_exists`, `sd_config_not_written`.
    """
    if path.exists():
        raise ConfigError("sd_config_exists", file=str(path))
    defaults = Given({}, script=given.script)
    values = {
        name: value
        for name, value in given.values.items()
        if given.has(name) and name not in LEFT_OUT and value != defaults.value(name)
    }
    try:
        with map_disk_full(path):
            write_atomically(path, tomli_w.dumps(values).encode())
    except OSError as error:
        raise ConfigError("sd_config_not_written", file=str(path), reason=str(error.strerror)) from error
