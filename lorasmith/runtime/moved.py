"""Finds the pictures and the base model of a run whose project was copied or moved, whole or in part, and makes the
notices about places that have changed since its last start.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lorasmith.config import RunConfig
from lorasmith.config.project_paths import project_of, with_subset_paths
from lorasmith.families.locate import is_there
from lorasmith.runs.events import Event, RunStarted
from lorasmith.runs.layout import RunFolder

_OPTIONS = {
    ("dataset", "folder"): "data",
    ("dataset", "reg_folder"): "reg-data-dir",
    ("dataset", "metadata_file"): "in-json",
    ("loss", "mask_folder"): "conditioning-data-dir",
    ("model", "base_model"): "base-model",
    ("evaluation", "clip_model"): "clip-model",
}

Warnings = tuple[tuple[str, dict[str, Any]], ...]


def found_again(run: RunFolder, config: RunConfig, events: Sequence[Event]) -> RunConfig:
    """Returns the run's settings with paths that no longer exist replaced: by the path of the last start, or by a
    file or folder of the same name in the project."""
    before = _settings_before(events)
    project = project_of(config, run.root)
    values: dict[tuple[str, str], Any] = {}
    for at in _OPTIONS:
        path = Path(getattr(getattr(config, at[0]), at[1]))
        if not path.is_absolute() or is_there(path):
            continue
        others = [Path(_text(before, at) or path), project / path.name, run.root.absolute().parent / path.name]
        there = [other for other in others if is_there(other)]
        if there:
            values[at] = str(there[0].resolve() if at[0] == "dataset" else there[0])
    return config.with_values(values | with_subset_paths(config.dataset.subsets, partial(_found_in, project)))


def _found_in(project: Path, folder: str) -> str:
    """The folder of a subset, or that of the same name in the project where it no longer exists."""
    path = Path(folder)
    other = project / path.name
    return str(other.resolve()) if path.is_absolute() and not is_there(path) and is_there(other) else folder


def lines_about_places(
    run: RunFolder, config: RunConfig, events: Sequence[Event], *, asked: Mapping[tuple[str, str], Any]
) -> Warnings:
    """Makes a notice for each place that differs from the last start, unless the user has just named it."""
    started = [event for event in events if isinstance(event, RunStarted)]
    if not started:
        return ()
    found: list[tuple[str, dict[str, Any]]] = []
    root = str(run.root.absolute())
    if started[-1].root and not _same(started[-1].root, root):
        found.append(("run_elsewhere", {"before": started[-1].root, "now": root}))
    for at, option in _OPTIONS.items():
        was, now = _text(started[-1].settings, at), str(getattr(getattr(config, at[0]), at[1]))
        if at not in asked and was and Path(was).is_absolute() and not _same(was, now):
            found.append(("path_elsewhere", {"option": option, "before": was, "now": now}))
    folder = Path(config.dataset.folder)
    beside = project_of(config, run.root) / folder.name
    is_old = not started[-1].root  # a ledger that does not tell whether this is a copy
    if is_old and ("dataset", "folder") not in asked and beside.is_dir() and not _same(str(beside), str(folder)):
        found.append(("data_beside_unused", {"folder": str(folder), "beside": str(beside)}))
    return tuple(found)


def _same(path: str, other: str) -> bool:
    return path == other or os.path.realpath(path) == os.path.realpath(other)


def _settings_before(events: Sequence[Event]) -> Mapping[str, Any]:
    started = [event for event in events if isinstance(event, RunStarted)]
    return started[-1].settings if started else {}


def _text(settings: Mapping[str, Any], at: tuple[str, str]) -> str:
    """Reads a path from the settings in a ledger, which may be of another version."""
    section = settings.get(at[0])
    value = section.get(at[1]) if isinstance(section, dict) else None
    return value if isinstance(value, str) else ""
