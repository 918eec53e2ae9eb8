"""`lorasmith.toml`: what stays the same in a folder. Read as settings; the first run adds the base model to it.

What a person wrote there is never changed: a line is added, and only where the file then still says what it said.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import tomli_w

from lorasmith.config import load_flat_toml
from lorasmith.run_folder import write_atomically
from lorasmith.ui.options import Values
from lorasmith.ui.words import FOLDER_SETTINGS


def read_folder_settings(here: Path) -> Values:
    """The settings of the folder; none where there is no file.

    Raises:
        ConfigError: the file is there and is wrong.
    """
    path = here / FOLDER_SETTINGS
    return load_flat_toml(path) if path.exists() else {}


def remember_base_model(here: Path, base_model: str) -> bool:
    """Adds `base_model` to the folder's settings; False, and nothing written, where the file leaves no place for it.

    Raises:
        OSError, ResourceError: the file cannot be written.
    """
    path = here / FOLDER_SETTINGS
    line = tomli_w.dumps({"base_model": base_model})
    if not path.exists():
        write_atomically(path, line.encode())
        return True
    data = path.read_bytes()
    text = data.decode("utf-8-sig")
    newline = "\r\n" if "\r\n" in text else "\n"
    line = line.replace("\n", newline)
    gap = "" if text.endswith("\n") or not text else newline
    if _means(text + gap + line, text, base_model):
        with path.open("ab") as file:
            file.write((gap + line).encode())
        return True
    # Below a table's header the line would belong to the table, so there it goes on top.
    if _means(line + text, text, base_model):
        mark = data[: len(data) - len(text.encode())]
        write_atomically(path, mark + (line + text).encode())
        return True
    return False


def _means(new: str, old: str, base_model: str) -> bool:
    """Whether `new` says what `old` said, and the base model."""
    try:
        return tomllib.loads(new) == {**tomllib.loads(old), "base_model": base_model}
    except tomllib.TOMLDecodeError:
        return False
