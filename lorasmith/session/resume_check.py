"""Whether an optimizer with its options continues from a saved state to the bit: tried out on a few small tensors.

No list could say it: it depends on the library's version, and on what it keeps outside of its state. The trial takes
milliseconds and leaves every generator of random numbers as it was.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.adapters import adapter_kind
from lorasmith.adapters.base import LayerSettings
from lorasmith.adapters.flat import FlatAdapter
from lorasmith.config import OptimizerConfig
from lorasmith.engine.optimizers import build_optimizer, set_lr
from lorasmith.engine.state import Origin, TrainState
from lorasmith.runs.events import Warned
from lorasmith.session.startup import StartupContext
from lorasmith.targets import TargetModule

BEFORE, AFTER = 3, 4  # steps before and after the state is saved
SIZES = (640, 64, 24)  # of the layers between them: one pair large enough to be quantised, one not
RANK = 16


def say_if_not_exact(optimizer: OptimizerConfig, startup: StartupContext, *, adapter: str, where: torch.device) -> None:
    """A warning where the optimizer that was chosen does not continue to the bit.

    Raises:
        ConfigError: as `build_optimizer`.
    """
    name, options = optimizer.name, optimizer.options
    if not continues_exactly(name, options, adapter=adapter, lr=optimizer.lr, where=where):
        fields = {"optimizer": name, "options": ", ".join(f"{key}={value}" for key, value in options.items()) or "-"}
        startup.event(Warned(attempt=startup.attempt, time=time.time(), code="resume_not_exact", fields=fields))


def continues_exactly(name: str, options: Mapping[str, Any], *, adapter: str, lr: float, where: torch.device) -> bool:
    """Whether 3 steps, a state, and 4 more steps in parts built anew give the bytes of 7 steps at once, and the state
    is loaded as it was saved.

    The state itself is compared as well, since a number that is rounded otherwise may show in the weights only later.

    Raises:
        ConfigError: as `build_optimizer`.
    """
    with torch.random.fork_rng([where] if where.type == "cuda" else []), redirect_stdout(io.StringIO()):
        straight = _made(name, options, adapter=adapter, lr=lr, where=where)
        _run(straight, lr, 1, BEFORE + AFTER)
        cut = _made(name, options, adapter=adapter, lr=lr, where=where)
        _run(cut, lr, 1, BEFORE)
        saved = _bytes_of(cut.optimizer.state_dict())
        weights = {key: tensor.clone() for key, tensor in cut.adapter.tensors().items()}
        fresh = _made(name, options, adapter=adapter, lr=lr, where=where)
        optimizer = torch.load(io.BytesIO(saved), weights_only=True, map_location="cpu")
        fresh.restore(cut.counters(), weights, optimizer)
        is_same_state = _is_same(cut.optimizer.state_dict(), fresh.optimizer.state_dict())
        _run(fresh, lr, BEFORE + 1, BEFORE + AFTER)
        return (
            is_same_state
            and torch.equal(straight.adapter.flat, fresh.adapter.flat)
            and _is_same(straight.optimizer.state_dict(), fresh.optimizer.state_dict())
        )


def _made(name: str, options: Mapping[str, Any], *, adapter: str, lr: float, where: torch.device) -> TrainState:
    """The start of a training of two layers, the same each time."""
    layers = nn.Sequential(*(nn.Linear(size, after, device=where) for size, after in pairwise(SIZES)))
    targets = [TargetModule(f"denoiser.{at}", "denoiser", layers, str(at)) for at in range(len(layers))]
    settings = dict.fromkeys((target.name for target in targets), LayerSettings(RANK, float(RANK)))
    made = FlatAdapter.attach(adapter_kind(adapter), targets, settings, seed=1)
    optimizer = build_optimizer(name, made, base_lrs={"denoiser": lr}, options=options)
    return TrainState(step=0, adapter=made, optimizer=optimizer, scaler=None, origin=Origin(step=0, epoch=1))


def _run(state: TrainState, lr: float, first: int, last: int) -> None:
    """Gradients of different sizes, a function of the step alone; the rate falls from step to step."""
    gradient = state.adapter.gradient()
    for step in range(first, last + 1):
        generator = torch.Generator().manual_seed(step)
        gradient.copy_(torch.randn(gradient.shape, generator=generator) * 10.0 ** -(step % 3))
        set_lr(state.optimizer, [lr], 1 / step)
        state.optimizer.step()


def _bytes_of(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _is_same(one: Any, other: Any) -> bool:
    """Whether two nested states are equal, tensors by type and value."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one.to("cpu"), other.to("cpu"))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return bool(one == other)
