"""Paths of a run that lie inside its project: relative in run.toml, absolute everywhere else.

A relative one begins with `./`, which no hub id does. Those outside, and those of older versions, are absolute in the
file too.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lorasmith.config.run import RunConfig, options
from lorasmith.config.subsets import subset_options

MARK = "./"


def project_of(config: RunConfig, root: Path) -> Path:
    """The project folder of the run in `root`, which may be its staging folder too, as both lie side by side."""
    return Path(os.path.normpath(root.absolute() / config.machine.project))


def relative(config: RunConfig, root: Path) -> dict[tuple[str, str], Any]:
    """The paths inside the project, relative to it, as run.toml holds them: {(section, field): path}."""
    project = project_of(config, root)
    values = {at: _each(_value(config, at), partial(_relative, project=project)) for at in _paths()}
    return values | with_subset_paths(config.dataset.subsets, lambda path: _relative(path, project))


def absolute(config: RunConfig, root: Path) -> dict[tuple[str, str], Any]:
    """The reverse of `relative`. Links in the folder of pictures are followed, as at --new."""
    project = project_of(config, root)
    found = {}
    for at in _paths():
        value, follows = _value(config, at), at[0] == "dataset"
        if any(path.startswith(MARK) for path in ([value] if isinstance(value, str) else value)):
            found[at] = _each(value, partial(_absolute, project=project, follows=follows))
    return found | with_subset_paths(config.dataset.subsets, lambda path: _absolute(path, project, follows=True))


def with_subset_paths(
    subsets: Sequence[Mapping[str, Any]], changed: Callable[[str], str]
) -> dict[tuple[str, str], Any]:
    """The tables of subsets with every path changed, as a value of the config; nothing where there are no tables."""
    paths = {key for key, known in subset_options(options()).items() if known.facts.holds == "path"}
    tables = tuple(
        {key: changed(value) if key in paths and isinstance(value, str) else value for key, value in table.items()}
        for table in subsets
    )
    return {("dataset", "subsets"): tables} if tables else {}


def _each(value: str | tuple[str, ...], changed: Callable[[str], str]) -> str | tuple[str, ...]:
    """A path, or each of several, changed."""
    return tuple(map(changed, value)) if isinstance(value, tuple) else changed(value)


def _relative(value: str, project: Path) -> str:
    path = Path(value)
    for folder in (project, project.resolve()):
        if path.is_absolute() and path.is_relative_to(folder):
            return MARK + path.relative_to(folder).as_posix()
    return value


def _absolute(value: str, project: Path, *, follows: bool) -> str:
    if not value.startswith(MARK):
        return value
    path = Path(os.path.normpath(project / value))
    return str(path.resolve() if follows else path)


def _paths() -> list[tuple[str, str]]:
    return [
        (known.section, known.field_name)
        for known in options().values()
        if known.facts.holds == "path" and known.section != "request"
    ]


def _value(config: RunConfig, at: tuple[str, str]) -> str | tuple[str, ...]:
    value: str | tuple[str, ...] = getattr(getattr(config, at[0]), at[1])
    return value
