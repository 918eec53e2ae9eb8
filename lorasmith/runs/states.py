"""The states of a run on disk: finds them, verifies them, and names the newest good state.

Reads manifests and hashes only, so it is torch-free; `session.checkpoint` reads and writes the tensors. A state is
found by its contents, never by its name or date.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorasmith.faults import fault_point
from lorasmith.runs.durable import sync_folder
from lorasmith.runs.layout import free_name

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1
ADAPTER = "adapter.safetensors"
OPTIMIZER = "optimizer.pt"
AVERAGE = "average.safetensors"  # of a run with --ema-decay
LR_SCHEDULE = "lr_scheduler.pt"
RANDOM_STATES = "random_states.pkl"
TRAIN_STATE = "train_state.json"
# The step in the names of exports and of folders of samples.
STEP_IN_NAME = re.compile(r"(?:^|-)step-?([0-9]{8,})(?:\.safetensors)?$")
# A folder with one of these is a state, even if its manifest is unreadable or missing.
OWN_FILES = (TRAIN_STATE, ADAPTER, OPTIMIZER)
DAMAGED = ".damaged"  # suffix of a state that was set aside
MAX_MANIFEST_BYTES = 2**20
HASH_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class SavedState:
    """A folder with a readable manifest. `damage_of` checks its files."""

    path: Path
    step: int
    identity: str


def manifest_bytes(folder: Path, *, step: int, identity: str, hashes: Mapping[str, str] | None = None) -> bytes:
    """Returns the manifest of the files in `folder`: the size and SHA-256 of each, and its own SHA-256. `hashes`: those
    that are known by name, of what was to be written; the other files are read."""
    known = hashes or {}
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": known.get(path.name) or sha256_of(path)}
        for path in sorted(folder.iterdir())
    }
    manifest = {"format": MANIFEST_FORMAT, "step": step, "identity": identity, "files": files}
    return json.dumps({**manifest, "sha256": _own_sha256(manifest)}, indent=1, sort_keys=True).encode()


def find_states(root: Path) -> tuple[list[SavedState], list[Path]]:
    """Finds the states in a run folder, highest step first, and the folders of states without a readable manifest.

    A folder with another program's `manifest.json` and no file of a state is ignored.
    """
    found: list[SavedState] = []
    unreadable: list[Path] = []
    if not root.is_dir():
        return found, unreadable
    for folder in sorted(root.iterdir()):
        if not folder.is_dir() or folder.name.startswith(".") or folder.suffix == DAMAGED:
            continue
        try:
            manifest = _manifest_of(folder)
            found.append(SavedState(folder, int(manifest["step"]), str(manifest["identity"])))
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            if any((folder / name).is_file() for name in OWN_FILES):
                unreadable.append(folder)
    return sorted(found, key=lambda state: (state.step, state.path.name), reverse=True), unreadable


def damage_of(state: SavedState) -> str | None:
    """Verifies a state; returns None if it is whole, else "missing:NAME", "size:NAME", "content:NAME" or "manifest"."""
    try:
        manifest = _manifest_of(state.path)
        if manifest.pop("sha256") != _own_sha256(manifest) or manifest["format"] != MANIFEST_FORMAT:
            return "manifest"
        listed = manifest["files"]
        for name in OWN_FILES:
            if name not in listed:
                return f"missing:{name}"
        for name, facts in listed.items():
            path = state.path / name
            if not path.is_file():
                return f"missing:{name}"
            if path.stat().st_size != facts["bytes"]:
                return f"size:{name}"
            if sha256_of(path) != facts["sha256"]:
                return f"content:{name}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "manifest"
    return None


def damage_in(folder: Path) -> str:
    """The damage of a folder that holds no usable state, as `damage_of` returns it."""
    return damage_of(SavedState(folder, 0, "")) or "manifest"


def damage_listed(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """Damaged states as the problems of an error: {path, reason, fields}."""
    return [{"path": path.name, "reason": "state_damaged", "fields": {"damage": damage_in(path)}} for path in folders]


def newest_good(root: Path, *, most: int | None = None) -> tuple[SavedState | None, list[Path]]:
    """Finds the whole state with the highest step, at most `most`. Also returns the damaged states above it and those
    without a readable step. Changes nothing."""
    states, damaged = find_states(root)
    for state in states:
        if most is not None and state.step > most:
            continue
        if damage_of(state) is None:
            return state, damaged
        damaged.append(state.path)
    return None, damaged


def set_aside(folder: Path) -> Path:
    """Renames a damaged state so that it is not used again; deletes nothing."""
    target = free_name(folder.with_name(folder.name + DAMAGED))
    folder.rename(target)
    fault_point("state.set_aside")
    sync_folder(folder.parent)
    return target


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def has_sha256(path: Path, sha256: str) -> bool:
    """Whether the file exists and has this SHA-256."""
    try:
        return sha256_of(path) == sha256
    except FileNotFoundError:
        return False


def _manifest_of(folder: Path) -> Any:
    """Reads the manifest of a folder.

    Raises:
        OSError: it is no regular file, or larger than any manifest.
        ValueError: it is no JSON.
    """
    path = folder / MANIFEST
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_MANIFEST_BYTES:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
    return json.loads(path.read_bytes())


def _own_sha256(manifest: dict[str, Any]) -> str:
    """The SHA-256 of a manifest without its own hash: a flipped bit in a step or an identity is damage too."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
