"""Reads a `--dataset_config` of musubi-tuner: tables `general` and `datasets`, of which each is a subset of the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorasmith.errors import ConfigError
from lorasmith.option_names import closest
from lorasmith.sd_scripts.arguments import Argument, Kind, converted
from lorasmith.sd_scripts.command_line import Given
from lorasmith.sd_scripts.files import read_file
from lorasmith.sd_scripts.resolution import resolution
from lorasmith.sd_scripts.settings import Settings

KEYS: Mapping[str, tuple[Kind, str]] = {
    "resolution": ("text", "resolution"),
    "caption_extension": ("text", "caption_extension"),
    "batch_size": ("integer", "batch_size"),
    "num_repeats": ("integer", "repeats"),
    "enable_bucket": ("flag", "enable_bucket"),
    "bucket_no_upscale": ("flag", "bucket_no_upscale"),
    "image_directory": ("text", "data"),
}
"""Key -> how its value is read, and the key of our subset."""
DEFAULTS = {"resolution": [960, 544], "enable_bucket": False}
WITHOUT_EFFECT = ("cache_directory", "debug_dataset")
FOLDER = "image_directory"


def musubi_datasets(given: Given, settings: Settings, here: Path) -> None:
    """Sets the subsets of the run from the file.

    Raises:
        ConfigError: the file cannot be read, has a key that is not known or not trained here, or a wrong value.
    """
    path = here / str(given.value("dataset_config"))
    content = read_file(path, ("toml", "json"))
    general, tables = content.get("general", {}), content.get("datasets", [])
    if not isinstance(general, dict) or not isinstance(tables, list) or not tables:
        raise ConfigError("sd_no_subsets", file=str(path))
    settings.recorded["dataset", "subsets"] = [_subset({**DEFAULTS, **general}, table, path) for table in tables]


def _subset(general: Mapping[str, Any], table: Any, path: Path) -> dict[str, Any]:
    if not isinstance(table, dict) or FOLDER not in table:
        raise ConfigError("sd_dataset_without_pictures", file=str(path), key=FOLDER)
    found: dict[str, Any] = {}
    for key, value in {**general, **table}.items():
        if key in WITHOUT_EFFECT:
            continue
        if key not in KEYS:
            raise ConfigError("sd_dataset_key", file=str(path), key=key, known=closest(key, KEYS) or ", ".join(KEYS))
        kind, ours = KEYS[key]
        read = converted(Argument(key, (), kind, "", ()), value, f"{path}: {key}")
        found[ours] = resolution(str(read), f"{path}: {key}") if key == "resolution" else read
    return found
