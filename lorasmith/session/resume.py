"""Continues a run from a state on disk, and checks whether that gives the same bytes."""

from __future__ import annotations

import io
import pickle
import random
from collections.abc import Mapping
from contextlib import redirect_stdout
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from lorasmith.adapters import adapter_kind
from lorasmith.adapters.base import LayerSettings
from lorasmith.adapters.flat import FlatAdapter
from lorasmith.config import OptimizerConfig
from lorasmith.engine.optimizers import build_optimizer, plain_parts, update
from lorasmith.engine.state import Origin, TrainState
from lorasmith.errors import ConfigError, NoStateError, ResumeError
from lorasmith.libraries import is_memory_error
from lorasmith.runs.events import AdapterExported, BestChosen
from lorasmith.runs.layout import RunFolder, free_name, stamp
from lorasmith.runs.ledger import read_events, surviving
from lorasmith.runs.naming import names_in
from lorasmith.runs.promotion import move
from lorasmith.runs.states import MANIFEST, STEP_IN_NAME, find_states
from lorasmith.session.checkpoint import load_state
from lorasmith.session.startup import StartupContext
from lorasmith.targets import TargetModule

# Of the trial in `continues_exactly`.
BEFORE, AFTER = 3, 4  # steps before and after the state is saved
SIZES = (640, 64, 24)  # of the layers between them: one pair large enough to be quantised, one not
RANK = 16
MAX_REASON = 300  # letters of a reason in a message
# What optimizers raise that need more than gradients (a closure, the model), or whose state torch refuses to read.
_REFUSALS = (
    *(ValueError, TypeError, KeyError, AttributeError, IndexError, ZeroDivisionError, RuntimeError, ImportError),
    *(AssertionError, NotImplementedError, pickle.UnpicklingError),
)


def restore_state(folder: Path, state: TrainState, *, identity: str, data_identity: str) -> dict[str, Any]:
    """Restores `state` from a folder, and returns the environment that it was saved in. Other pictures, batch size or
    accumulation than before begin a new epoch.

    Raises:
        ResumeError: the state belongs to a run with another identity.
        NoStateError: the state is missing or damaged.
    """
    saved = next((saved for saved in find_states(folder.parent)[0] if saved.path == folder), None)
    if saved is None:
        raise NoStateError("state_damaged", path=str(folder), damage=MANIFEST)
    if saved.identity != identity:
        raise ResumeError("state_of_other_run", path=str(folder))
    described = load_state(saved, state)
    if described["data_identity"] != data_identity:
        state.origin = Origin(step=state.step, epoch=described["epoch"] + 1)
    environment: dict[str, Any] = described["fingerprint"]
    return environment


def changes_since(before: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """The changes of the environment as text, "NAME: BEFORE -> NOW, ..."; "" if there are none."""
    # An older version recorded fewer facts: those count as changed, but for the result of a check it did not make. All
    # it did was eager.
    before = {"execution": "eager", "base_precision": "auto", **before}
    known = {name: now for name, now in environment.items() if name in before or name != "self_check"}
    changed = {name: now for name, now in known.items() if before.get(name, "") != now}
    return ", ".join(f"{name}: {before.get(name, '')} -> {now}" for name, now in changed.items())


def step_back(run: RunFolder, step: int, *, now: datetime) -> Path | None:
    """Moves states, exports and samples of steps above `step` to a backup folder, and the best export if it is of such
    a step. Returns the folder; None if there was nothing to move.

    The lowest states are moved first: after an interruption the run still ends at its highest step.
    """
    above = [state.path for state in reversed(find_states(run.root)[0]) if state.step > step]
    for path in sorted([*run.root.glob("*-step*.safetensors"), *run.samples.glob("step-*")]):
        match = STEP_IN_NAME.search(path.name)
        if match is not None and int(match[1]) > step:
            above.append(path)
    events, names = surviving(read_events(run.ledger)), names_in(run)
    newest = {event.path: event.step for event in events if isinstance(event, AdapterExported)}
    beside = [path for path in names.beside() if path not in (names.last, names.other)]
    above += [path for path in beside if newest.get(names.recorded(path), 0) > step]
    best = [event for event in events if isinstance(event, BestChosen)]
    if best and best[-1].step > step:
        kept = names.folder / Path(best[-1].path).name  # events name it from the run folder, beside which it may lie
        above += [kept] if kept.exists() else []
    if not above:
        return None
    backup = free_name(run.backup / f"run_{stamp(now)}")
    for path in above:
        inside = path.relative_to(run.root) if path.is_relative_to(run.root) else path.name
        move(path, backup / inside)
    return backup


def check_exactness(
    optimizer: OptimizerConfig, startup: StartupContext, *, adapter: str, device: torch.device, dtype: torch.dtype
) -> None:
    """Warns if the optimizer does not continue bit for bit.

    Raises:
        ConfigError: as `build_optimizer`; `optimizer_unusable`, it cannot train an adapter.
    """
    name, options = optimizer.name, optimizer.options
    try:
        is_exact = continues_exactly(name, options, adapter=adapter, lr=optimizer.lr, device=device, dtype=dtype)
    except _REFUSALS as error:
        if is_memory_error(error):
            raise
        reason = f"{type(error).__name__}: {error}"[:MAX_REASON]
        raise ConfigError("optimizer_unusable", optimizer=name, reason=reason) from error
    if not is_exact:
        fields = {"optimizer": name, "options": ", ".join(f"{key}={value}" for key, value in options.items()) or "-"}
        startup.warn("resume_not_exact", **fields)


def continues_exactly(
    name: str, options: Mapping[str, Any], *, adapter: str, lr: float, device: torch.device, dtype: torch.dtype
) -> bool:
    """Whether an optimizer with these options continues from a saved state bit for bit, tried on a few small tensors.

    No list could tell: it depends on the library's version and on what it keeps outside of its state. The trial
    compares 7 steps with 3 steps, a state, and 4 more steps in objects built anew, and with 7 steps and an evaluation
    on the way. It takes milliseconds and restores all random generators. The loaded state is compared too: a
    rounding error may affect the weights only later.

    Raises:
        ConfigError: as `build_optimizer`.
    """
    numbers, pairs = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []), redirect_stdout(io.StringIO()):
        straight = _made(name, options, adapter=adapter, lr=lr, device=device, dtype=dtype)
        _run(straight, lr, 1, BEFORE + AFTER)
        cut = _made(name, options, adapter=adapter, lr=lr, device=device, dtype=dtype)
        _run(cut, lr, 1, BEFORE)
        with cut.evaluation_weights():
            pass
        saved = _bytes_of(cut.optimizer.state_dict())
        weights = {key: tensor.clone() for key, tensor in cut.adapter.tensors().items()}
        fresh = _made(name, options, adapter=adapter, lr=lr, device=device, dtype=dtype)
        optimizer = torch.load(io.BytesIO(saved), weights_only=True, map_location="cpu")
        fresh.restore(cut.counters(), weights, optimizer)
        is_same_state = _is_same(cut.optimizer.state_dict(), fresh.optimizer.state_dict())
        for state in (fresh, cut):  # `cut` has been evaluated
            _run(state, lr, BEFORE + 1, BEFORE + AFTER)
    random.setstate(numbers)
    numpy.random.set_state(pairs)
    return (
        is_same_state
        and _is_same(straight.adapter.tensors(), fresh.adapter.tensors())
        and _is_same(straight.adapter.tensors(), cut.adapter.tensors())
        and _is_same(straight.optimizer.state_dict(), fresh.optimizer.state_dict())
    )


def _made(
    name: str, options: Mapping[str, Any], *, adapter: str, lr: float, device: torch.device, dtype: torch.dtype
) -> TrainState:
    """The same initial state of a training of two layers each time. Seeds torch's generator: the numbers of some kinds
    of adapters begin as those of the layers' weights."""
    torch.manual_seed(1)
    layers = nn.Sequential(*(nn.Linear(size, after, device=device) for size, after in pairwise(SIZES)))
    targets = [TargetModule(f"denoiser.{at}", "denoiser", layers, str(at)) for at in range(len(layers))]
    settings = dict.fromkeys((target.name for target in targets), LayerSettings(RANK, float(RANK)))
    made = FlatAdapter.attach(adapter_kind(adapter), targets, settings, seed=1, dtype=dtype)
    optimizer = build_optimizer(name, made, base_lrs={"denoiser": lr}, options=options)
    return TrainState(step=0, adapter=made, optimizer=optimizer, scaler=None, origin=Origin(step=0, epoch=1))


def _run(state: TrainState, lr: float, first: int, last: int) -> None:
    """Takes steps with gradients of different sizes, a function of the step alone, at falling learning rates."""
    gradient = state.adapter.gradient()
    for step in range(first, last + 1):
        generator = torch.Generator().manual_seed(step)
        gradient.copy_(torch.randn(gradient.shape, generator=generator) * 10.0 ** -(step % 3))
        update(state.optimizer, [lr / step], seed=step)
    if any(view.grad is None for view in state.adapter.parameters("denoiser")):
        raise ValueError("it removes the gradients")


def _bytes_of(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _is_same(left: Any, right: Any) -> bool:
    """Whether two nested states are equal, tensors by type and value."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        parts = zip(plain_parts(left), plain_parts(right), strict=True)
        return left.dtype == right.dtype and all(torch.equal(was.cpu(), now.cpu()) for was, now in parts)
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(_is_same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(_is_same, left, right))
    return bool(left == right)
