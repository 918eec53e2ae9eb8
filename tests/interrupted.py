"""A process that ends at any change it makes to a folder, and what lies in a folder then."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def tree(folder: Path) -> dict[str, bytes | str]:
    """Every file below, with its bytes; every empty folder and link."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            found[name] = path.read_bytes()
        elif not any(path.iterdir()):
            found[name] = "empty folder"
    return found


# Each call that changes a directory; the interruption comes before or after it is done.
CALLS = [(Path, "rename"), (os, "replace"), (os, "unlink"), (os, "rmdir"), (Path, "mkdir"), (shutil, "copy2")]


class Cut(BaseException):
    """The process is gone."""


@contextmanager
def cut_at(number: int, *, before: bool) -> Iterator[list[str]]:
    """Lets `number` changes happen, and the next one or not."""
    done: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)  # slow, and nothing is cut off from power here
        for place, name in CALLS:
            patch.setattr(place, name, _counting(name, getattr(place, name), done, number, before))
        yield done


def _counting(name: str, real: Callable[..., Any], done: list[str], number: int, before: bool) -> Callable[..., Any]:
    def call(*given: Any, **more: Any) -> Any:
        is_it = len(done) == number
        done.append(name)
        if is_it and before:
            raise Cut
        result = real(*given, **more)
        if is_it:
            raise Cut
        return result

    return call
