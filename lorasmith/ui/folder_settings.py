"""`lorasmith.toml`: the settings of all runs in a folder. The first run adds the base model to it.

The user's own lines are never changed: a line is added, and only if the file then still has the same values. Imports
nothing slow at the top, as every command reads its language here.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lorasmith.errors import ConfigError

if TYPE_CHECKING:
    from lorasmith.runtime.preflight import Start
    from lorasmith.ui.options import Values

FOLDER_SETTINGS = "lorasmith.toml"
OF_DEMO = "# lorasmith-demo\n"  # first line of those that `demo` wrote; a folder with it may be used again


def folder_text(here: Path, key: str) -> str:
    """The text of `key` in the folder's settings, unchecked; "" if there is none. A wrong file is reported by the
    command that needs all of it."""
    try:
        found = tomllib.loads((here / FOLDER_SETTINGS).read_bytes().decode("utf-8-sig")).get(key, "")
    except (OSError, ValueError):
        return ""
    return found if isinstance(found, str) else ""


def read_folder_settings(here: Path) -> Values:
    """The settings of the folder; none where there is no file.

    Raises:
        ConfigError: the file exists and is wrong, or an editor of Windows has added `.txt` to its name.
    """
    from lorasmith.config import load_flat_toml

    path = here / FOLDER_SETTINGS
    misnamed = path.with_name(f"{FOLDER_SETTINGS}.txt")
    if misnamed.exists() and not path.exists():
        raise ConfigError("config_named_txt", file=str(misnamed))
    return load_flat_toml(path) if path.exists() else {}


def with_given(settings: Values, typed: Collection[tuple[str, str]], here: Path) -> Values:
    """The settings of a new run; in a folder that `demo` made also the names of those that count as given: all but
    those of `demo` that are unchanged.

    Args:
        typed: the places of settings on the command line and in --config.
    """
    path = here / FOLDER_SETTINGS
    if not (path.is_file() and path.read_bytes().startswith(OF_DEMO.encode())):
        return settings
    from lorasmith.config import options
    from lorasmith.demo.lesson import SETTINGS
    from lorasmith.runtime.given import GIVEN

    places = {key: (option.section, option.field_name) for key, option in options().items()}
    of_demo = {places[key] for key, value in SETTINGS.items() if settings.get(places[key]) == value}
    given = settings.keys() - (of_demo - set(typed))
    return {**settings, GIVEN: tuple(option.name for key, option in options().items() if places[key] in given)}


def with_notice(start: Start, values: Values, here: Path) -> Start:
    """The start of a continued run, with a warning if the folder's settings, which it does not read, differ.

    Args:
        values: the settings given for this start, which may differ.
    """
    from lorasmith.runtime.preflight import differing_settings

    try:
        settings = {at: value for at, value in read_folder_settings(here).items() if at not in values}
        ours = {at: value for at, value in settings.items() if at[0] != "request"}
        keys = differing_settings(start.config, ours, here)
    except ConfigError:  # a wrong file does not stop a run that does not read it
        return start
    if not keys:
        return start
    notice = ("settings_differ", {"file": FOLDER_SETTINGS, "keys": keys})
    return replace(start, warnings=(*start.warnings, notice))


def remember_base_model(here: Path, base_model: str) -> bool:
    """Adds `base_model` to the folder's settings. Returns False, with nothing written, if no line can be added.

    Raises:
        OSError, ResourceError: the file cannot be written.
    """
    import tomli_w

    from lorasmith.runs.durable import write_atomically

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
    if _adds_only(text + gap + line, text, base_model):
        with path.open("ab") as file:
            file.write((gap + line).encode())
        return True
    # Below the header of a table the line would belong to that table, so it becomes the first line.
    if _adds_only(line + text, text, base_model):
        mark = data[: len(data) - len(text.encode())]
        write_atomically(path, mark + (line + text).encode())
        return True
    return False


def _adds_only(new: str, old: str, base_model: str) -> bool:
    """Whether `new` has the values of `old` and the base model."""
    try:
        return tomllib.loads(new) == {**tomllib.loads(old), "base_model": base_model}
    except tomllib.TOMLDecodeError:
        return False
