"""Miniatures are made once in a process: making one costs as much as several tests of it, copying nearly nothing."""

import atexit
import shutil
import tempfile
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any


@cache
def _models() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="lorasmith-miniatures-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def made_once(make: Callable[..., Path]) -> Callable[..., Path]:
    """`make(folder, **options)`, which copies into the folder what it made for the same options before."""
    made: dict[str, Path] = {}

    @wraps(make)
    def copied(folder: Path, **options: Any) -> Path:
        asked = repr(sorted(options.items()))
        if asked not in made:
            place = Path(tempfile.mkdtemp(dir=_models())) / "model"
            made[asked] = make(place, **options)
        shutil.copytree(made[asked], folder, dirs_exist_ok=True)
        return folder

    return copied
