"""The folder of a dataset's cache. Needs no torch, so that a plan names the folder that a run will take."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from lorasmith.data.files import shown
from lorasmith.errors import InputError
from lorasmith.runs.layout import RunFolder

FOLDER_NAME = ".lorasmith_cache"


def cache_folder(data_folder: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """`.lorasmith_cache` beside the data folder; the user's cache folder where that cannot be written, or is in a run.

    Creates nothing: `EncoderCache.store` makes the folder when there is something to keep.

    Raises:
        InputError: `cache_not_writable`, neither can be written.
    """
    beside = Path(os.path.abspath(data_folder)).parent / FOLDER_NAME  # noqa: PTH100 - a link stays a link
    choices = [] if _is_in_a_run(beside) else [beside]
    choices.append(_user_cache(environment))
    for folder in choices:
        if _can_be_written(folder):
            return folder
    raise InputError("cache_not_writable", folders=", ".join(shown(folder) for folder in choices))


def _is_in_a_run(path: Path) -> bool:
    return any(RunFolder(parent).config.exists() or RunFolder(parent).ledger.exists() for parent in path.parents)


def _user_cache(environment: Mapping[str, str]) -> Path:
    named = environment.get("LOCALAPPDATA", "") if os.name == "nt" else environment.get("XDG_CACHE_HOME", "")
    base = Path(named) if Path(named).is_absolute() else Path.home() / ".cache"
    return base / "lorasmith"


def _can_be_written(folder: Path) -> bool:
    """Tries to write there, since permissions do not decide it on Windows or a read-only disk; leaves nothing."""
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryFile(dir=there):
            return True
    except OSError:
        return False
