"""States on disk: save, verify by reading back, load, keep the newest. What is in one is `training.state`'s business.

No file of a state can hold code: tensors as safetensors, the rest as JSON or as what torch.load(weights_only=True)
reads.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from lorasmith.engine.device import is_out_of_memory
from lorasmith.engine.state import Origin, TrainState
from lorasmith.errors import InputError, NonFiniteError, NoStateError, ResourceError, ResumeError
from lorasmith.faults import fault_point
from lorasmith.runs.durable import map_disk_full, retry_while_open, sync_folder, write_durably
from lorasmith.runs.events import BestChosen
from lorasmith.runs.layout import RunFolder, free_name, stamp
from lorasmith.runs.ledger import read_events, surviving
from lorasmith.runs.promotion import move
from lorasmith.runs.states import (
    ADAPTER,
    LR_SCHEDULE,
    MANIFEST,
    OPTIMIZER,
    RANDOM_STATES,
    STEP_IN_NAME,
    TRAIN_STATE,
    SavedState,
    damage_of,
    find_states,
    manifest_bytes,
    sha256_of,
)

ROOM_FOR_STATES = 2  # the disk must hold so many more states than there are before a run begins


@dataclass(frozen=True, slots=True)
class StateFacts:
    """What a state says besides its tensors and counters: for people, for the check on loading, for `--continue`."""

    identity: str
    data_identity: str  # of the pictures, batch size and accumulation: another one begins a new origin
    seed: int
    lr_schedule: Mapping[str, Any]
    described: Mapping[str, Any]  # epoch, position, target, fingerprint …


def save_state(state: TrainState, run: RunFolder, facts: StateFacts, *, prefix: str, now: datetime) -> tuple[Path, str]:
    """Writes a whole new state folder; its path and the SHA-256 of its manifest.

    Hidden temporary folder, every file fsynced, the manifest last, read back and compared, then renamed.

    Raises:
        NonFiniteError: a number to be saved is not finite; nothing is left behind.
        ResourceError: the disk is full; nothing is left behind.
    """
    final = _name_for(state.step, run, run.new_state(prefix, now))
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    files = _files_of(state, facts)
    try:
        with map_disk_full(final):
            temporary.mkdir(parents=True)
            fault_point("state.begun")
            for name, data in files.items():
                write_durably(temporary / name, data)
                fault_point("state.file")
            manifest = manifest_bytes(temporary, step=state.step, identity=facts.identity)
            write_durably(temporary / MANIFEST, manifest)
            fault_point("state.manifest")
            sync_folder(temporary)
        damage = damage_of(SavedState(temporary, state.step, facts.identity))
        if damage is not None:
            raise ResourceError("disk_unreliable", path=str(final), damage=damage)
        with map_disk_full(final):  # a folder can need room for a name too
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
    """A name behind those of the same step: the last of them counts, and the clock may have been set back."""
    same = [saved.path for saved in find_states(run.root)[0] if saved.step == step]
    return named if not same or named.name > same[0].name else free_name(same[0])


def load_state(saved: SavedState, state: TrainState) -> dict[str, Any]:
    """Restores `state` from a folder and returns its train_state.json.

    Raises:
        NoStateError: the folder is damaged after all.
    """
    damage = damage_of(saved)
    if damage is not None:
        raise NoStateError("state_damaged", path=str(saved.path), damage=damage)
    with _damage_named(saved, TRAIN_STATE):
        described: dict[str, Any] = json.loads((saved.path / TRAIN_STATE).read_bytes())
        counters = described["counters"]
    with _damage_named(saved, ADAPTER):
        adapter = safetensors.torch.load_file(saved.path / ADAPTER)
    with _damage_named(saved, OPTIMIZER):
        optimizer = torch.load(saved.path / OPTIMIZER, weights_only=True, map_location="cpu")
        state.restore(counters, adapter, optimizer)
    return described


@contextmanager
def _damage_named(saved: SavedState, file: str) -> Iterator[None]:
    """What a file cannot be read for though its SHA-256 is the manifest's: somebody signed it anew."""
    try:
        yield
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, KeyError, TypeError, EOFError) as error:
        if is_out_of_memory(error):
            raise
        raise NoStateError("state_damaged", path=str(saved.path), damage=file) from error


def restore_state(
    folder: Path, state: TrainState, *, identity: str, data_identity: str, fingerprint: Mapping[str, Any]
) -> dict[str, list[Any]]:
    """Goes on from the state in `folder`; other pictures, batch size or accumulation begin a new origin.

    Returns what of the fingerprint is no longer the same, {name: [before, now]}.

    Raises:
        ResumeError: the state of a run with another identity.
        NoStateError: it is not there any more, or damaged.
    """
    saved = next((one for one in find_states(folder.parent)[0] if one.path == folder), None)
    if saved is None:
        raise NoStateError("state_damaged", path=str(folder), damage=MANIFEST)
    if saved.identity != identity:
        raise ResumeError("state_of_other_run", path=str(folder))
    described = load_state(saved, state)
    if described["data_identity"] != data_identity:
        state.origin = Origin(step=state.step, epoch=described["epoch"] + 1)
    was = described["fingerprint"]
    # A version that did not record something had none of it, but what was not checked cannot have changed.
    recorded = {name: now for name, now in fingerprint.items() if name in was or name != "self_check"}
    return {name: [was.get(name, ""), now] for name, now in recorded.items() if was.get(name, "") != now}


def step_back(run: RunFolder, step: int, *, now: datetime) -> Path | None:
    """Moves the states, step exports and samples of steps above `step` to a backup folder, and the best export where it
    is of such a step; None where there are none.

    The lowest states first: cut short by a kill, the run still stands where it stood.
    """
    above = [state.path for state in reversed(find_states(run.root)[0]) if state.step > step]
    for path in sorted([*run.root.glob("*-step*.safetensors"), *run.samples.glob("step-*")]):
        found = STEP_IN_NAME.search(path.name)
        if found is not None and int(found[1]) > step:
            above.append(path)
    best = [event for event in surviving(read_events(run.ledger)) if isinstance(event, BestChosen)]
    if best and best[-1].step > step and (run.root / best[-1].path).exists():
        above.append(run.root / best[-1].path)
    if not above:
        return None
    backup = free_name(run.backup / f"run_{stamp(now)}")
    for path in above:
        move(path, backup / path.relative_to(run.root))
    return backup


def check_room(run: RunFolder, state: TrainState) -> None:
    """A full disk is the user's to mend while nothing has begun.

    Raises:
        InputError: there is no room for a few states.
    """
    needed = ROOM_FOR_STATES * 4 * state.adapter.flat.numel() * 4  # adapter, two moments, an export: float32
    free = shutil.disk_usage(run.root).free
    if free < needed:
        raise InputError("disk_too_full", folder=str(run.root), needed_mb=needed >> 20, free_mb=free >> 20)


def prune_states(run: RunFolder, *, keep: int, protect: frozenset[int] = frozenset()) -> list[Path]:
    """Removes all but the `keep` highest steps and those protected; only after the newest was read back whole. What the
    system does not let go of stays, and is tried again after the next save.

    Raises:
        ResourceError: the disk is too full even for the other name that it gets first.
    """
    states, _ = find_states(run.root)
    if not states or damage_of(states[0]) is not None:
        return []
    removed = [state.path for state in states[keep:] if state.step not in protect]
    doomed = []
    with map_disk_full(run.root):
        # Renamed first, and that on the disk: a folder that is half removed must never look like a state.
        for path in removed:
            fault_point("prune.chosen")
            with suppress(PermissionError):
                doomed.append(path.rename(path.with_name(f".{path.name}.removed.tmp")))
        if doomed:
            fault_point("prune.renamed")
            sync_folder(run.root)
        for path in doomed:
            shutil.rmtree(path, ignore_errors=True)  # the rest goes with the next start
            fault_point("prune.removed")
    return removed


def _files_of(state: TrainState, facts: StateFacts) -> dict[str, bytes]:
    adapter = state.adapter.tensors()
    numbers = [state.adapter.flat, *_tensors_in(state.optimizer.state_dict()["state"])]
    if not all(bool(torch.isfinite(one).all()) for one in numbers):
        raise NonFiniteError("weights_non_finite", step=state.step)
    train_state = {"counters": state.counters(), "data_identity": facts.data_identity, **facts.described}
    return {
        ADAPTER: safetensors.torch.save(adapter),
        OPTIMIZER: _torch_bytes(state.optimizer.state_dict()),
        LR_SCHEDULE: _torch_bytes({**facts.lr_schedule, "step": state.step}),
        # Nothing random has a history: the seed and the counters are all there is to remember.
        RANDOM_STATES: _torch_bytes({"seed": facts.seed, "step": state.step, "origin": state.counters()["origin"]}),
        TRAIN_STATE: json.dumps(train_state, indent=1, sort_keys=True, ensure_ascii=False).encode(),
    }


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _tensors_in(one)


def _torch_bytes(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
