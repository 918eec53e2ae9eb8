"""Paths of a run that lie inside its project: relative in run.toml, absolute everywhere else.

A relative one begins with `./`, which no hub id does. Those outside, and those of older versions, are absolute in the
file too.
"""

import os
from pathlib import Path
from typing import Any

from lorasmith.config.run import RunConfig, options

MARK = "./"


def project_of(config: RunConfig, root: Path) -> Path:
    """The project folder of the run in `root`, which may be its staging folder too, as both lie side by side."""
    return Path(os.path.normpath(root.absolute() / config.machine.project))


def relative(config: RunConfig, root: Path) -> dict[tuple[str, str], Any]:
    """The paths inside the project, relative to it, as run.toml holds them: {(section, field): path}."""
    project = project_of(config, root)
    found = {}
    for at in _paths():
        path = Path(_value(config, at))
        for folder in (project, project.resolve()):
            if path.is_absolute() and path.is_relative_to(folder):
                found[at] = MARK + path.relative_to(folder).as_posix()
                break
    return found


def absolute(config: RunConfig, root: Path) -> dict[tuple[str, str], Any]:
    """The reverse of `relative`. Links in the folder of pictures are followed, as at --new."""
    project = project_of(config, root)
    found = {}
    for at in _paths():
        value = _value(config, at)
        if value.startswith(MARK):
            path = Path(os.path.normpath(project / value))
            found[at] = str(path.resolve() if at == ("dataset", "folder") else path)
    return found


def _paths() -> list[tuple[str, str]]:
    return [
        (known.section, known.field_name)
        for known in options().values()
        if known.facts.holds == "path" and known.section != "request"
    ]


def _value(config: RunConfig, at: tuple[str, str]) -> str:
    return str(getattr(getattr(config, at[0]), at[1]))
