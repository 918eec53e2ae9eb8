"""Saves, verifies, loads and prunes the states of a run on disk. `engine.state` decides what a state holds.

No file of a state can hold code: tensors are safetensors, the rest is JSON or read by torch.load(weights_only=True).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from lorasmith.engine.device import is_out_of_memory
from lorasmith.engine.optimizers import plain_parts
from lorasmith.engine.state import TrainState
from lorasmith.errors import InputError, NonFiniteError, NoStateError, ResourceError
from lorasmith.faults import fault_point
from lorasmith.finite import is_finite
from lorasmith.runs.durable import map_disk_full, retry_while_open, sync_folder, write_durably
from lorasmith.runs.layout import RunFolder, free_name
from lorasmith.runs.states import (
    ADAPTER,
    AVERAGE,
    LR_SCHEDULE,
    MANIFEST,
    OPTIMIZER,
    RANDOM_STATES,
    TRAIN_STATE,
    SavedState,
    damage_of,
    find_states,
    manifest_bytes,
    sha256_of,
)

MIN_FREE_STATES = 2  # the disk must have space for that many more states before a run begins


@dataclass(frozen=True, slots=True)
class StateFacts:
    """The contents of a state besides tensors and counters."""

    identity: str
    data_identity: str  # of pictures, batch size and accumulation: when it changes, a new epoch begins
    seed: int
    lr_schedule: Mapping[str, Any]
    described: Mapping[str, Any]  # epoch, position, target, fingerprint …


def save_state(state: TrainState, run: RunFolder, facts: StateFacts, named: Path) -> tuple[Path, str]:
    """Writes a new state, `named` or with another name where that is taken; returns its folder and the SHA-256 of its
    manifest.

    All files are written to a hidden folder and synced, the manifest last; they are read back, and the folder renamed.

    Raises:
        NonFiniteError: a number to be saved is not finite; nothing is left behind.
        ResourceError: the disk is full; nothing is left behind.
    """
    final = free_name(_name_for(state.step, run, named))
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    _check_finite(state)
    try:
        with map_disk_full(final):
            temporary.mkdir(parents=True)
            fault_point("state.begun")
            hashes = _write_files(temporary, _files_of(state, facts))
            manifest = manifest_bytes(temporary, step=state.step, identity=facts.identity, hashes=hashes)
            write_durably(temporary / MANIFEST, manifest)
            fault_point("state.manifest")
            sync_folder(temporary)
        damage = damage_of(SavedState(temporary, state.step, facts.identity))
        if damage is not None:
            raise ResourceError("disk_unreliable", path=str(final), damage=damage)
        with map_disk_full(final):  # a folder may need space for the name
            fault_point("state.verified")
            retry_while_open(lambda: temporary.rename(final))
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    with map_disk_full(final):
        fault_point("state.renamed")
        sync_folder(final.parent)
    return final, sha256_of(final / MANIFEST)


def _name_for(step: int, run: RunFolder, named: Path) -> Path:
    """A name that sorts after all states of the step, of which the last counts; the clock may have been set back."""
    same = [saved.path for saved in find_states(run.root)[0] if saved.step == step]
    return named if not same or named.name > same[0].name else free_name(same[0])


def load_state(saved: SavedState, state: TrainState) -> dict[str, Any]:
    """Restores `state` from a folder and returns the contents of its train_state.json.

    Raises:
        NoStateError: the state is damaged.
    """
    damage = damage_of(saved)
    if damage is not None:
        raise NoStateError("state_damaged", path=str(saved.path), damage=damage)
    with _map_damage(saved, TRAIN_STATE):
        described: dict[str, Any] = json.loads((saved.path / TRAIN_STATE).read_bytes())
        counters = described["counters"]
    with _map_damage(saved, ADAPTER):
        adapter = safetensors.torch.load_file(saved.path / ADAPTER)
    with _map_damage(saved, AVERAGE):
        file = saved.path / AVERAGE
        average = safetensors.torch.load_file(file) if file.exists() else None
    with _map_damage(saved, OPTIMIZER):
        optimizer = torch.load(saved.path / OPTIMIZER, weights_only=True, map_location="cpu")
        state.restore(counters, adapter, optimizer, average)
    return described


@contextmanager
def _map_damage(saved: SavedState, file: str) -> Iterator[None]:
    """Turns the error of a file that has the SHA-256 of its manifest, but cannot be read, into a NoStateError."""
    try:
        yield
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, KeyError, TypeError, EOFError) as error:
        if is_out_of_memory(error):
            raise
        raise NoStateError("state_damaged", path=str(saved.path), damage=file) from error


def check_disk_space(run: RunFolder, state: TrainState) -> None:
    """Checks that the disk has space for a few states, while nothing has begun.

    Raises:
        InputError: it has not.
    """
    needed = MIN_FREE_STATES * 4 * state.adapter.flat.numel() * 4  # adapter, two moments, an export: float32
    free = shutil.disk_usage(run.root).free
    if free < needed:
        raise InputError("disk_too_full", folder=str(run.root), needed_mb=needed >> 20, free_mb=free >> 20)


def prune_states(run: RunFolder, *, keep: int, protect: frozenset[int] = frozenset()) -> list[Path]:
    """Removes all states but the `keep` highest steps and protected steps, once the newest is whole; none if `keep` is
    0. A state that the system refuses to rename stays until the next call. Returns the paths of the removed states.

    Raises:
        ResourceError: the disk is too full even for renaming.
    """
    states, _ = find_states(run.root)
    removed = [state.path for state in states[keep:] if state.step not in protect] if keep else []
    if not removed or damage_of(states[0]) is not None:
        return []
    doomed = []
    with map_disk_full(run.root):
        # Renamed first, and synced: a folder that is half removed must never look like a state.
        for path in removed:
            fault_point("prune.chosen")
            with suppress(PermissionError):
                doomed.append(path.rename(path.with_name(f".{path.name}.removed.tmp")))
        if doomed:
            fault_point("prune.renamed")
            sync_folder(run.root)
        for path in doomed:
            shutil.rmtree(path, ignore_errors=True)  # the next start removes the rest
            fault_point("prune.removed")
    return removed


def _check_finite(state: TrainState) -> None:
    """
    Raises:
        NonFiniteError: a number of the adapter or of the optimizer is not finite.
    """
    if not all(map(is_finite, [state.adapter.flat, *_tensors_in(state.optimizer.state_dict()["state"])])):
        raise NonFiniteError("weights_non_finite", step=state.step)


def _write_files(folder: Path, files: Iterable[tuple[str, memoryview]]) -> dict[str, str]:
    """Writes files and returns the SHA-256 of what was to be written, by name, made in another thread meanwhile."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        hashes = {}
        for name, data in files:
            digest = pool.submit(hashlib.sha256, data)
            write_durably(folder / name, data)
            fault_point("state.file")
            hashes[name] = digest.result().hexdigest()
    return hashes


def _files_of(state: TrainState, facts: StateFacts) -> Iterator[tuple[str, memoryview]]:
    """The name and the bytes of each file of a state but its manifest. One file at a time is in memory."""
    if state.average is not None:
        yield AVERAGE, memoryview(safetensors.torch.save(state.adapter.tensors(state.average.weights)))
    yield ADAPTER, memoryview(safetensors.torch.save(state.adapter.tensors()))
    yield OPTIMIZER, _torch_bytes(state.optimizer.state_dict())
    yield LR_SCHEDULE, _torch_bytes({**facts.lr_schedule, "step": state.step})
    # Random numbers are a function of the seed and the counters.
    random_states = {"seed": facts.seed, "step": state.step, "origin": state.counters()["origin"]}
    yield RANDOM_STATES, _torch_bytes(random_states)
    train_state = {"counters": state.counters(), "data_identity": facts.data_identity, **facts.described}
    yield TRAIN_STATE, memoryview(json.dumps(train_state, indent=1, sort_keys=True, ensure_ascii=False).encode())


def _tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors of nested dicts."""
    if isinstance(value, Tensor):
        yield from plain_parts(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors_in(item)


def _torch_bytes(value: Any) -> memoryview:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getbuffer()
