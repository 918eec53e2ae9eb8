"""Chooses how steps are executed, makes that ready before step 1, and falls back for the whole run where it
cannot be had."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from torch import nn

from lorasmith.config import RunConfig
from lorasmith.data.types import Batch
from lorasmith.diffusion.draw import Numbers
from lorasmith.engine.batches import RunBatches
from lorasmith.engine.capture import Capture, capture_on
from lorasmith.engine.captured import CapturedExecution
from lorasmith.engine.compiled import CompiledExecution, compile_in_another_folder, compute_as_before
from lorasmith.engine.device import Device
from lorasmith.engine.device_update import DeviceUpdate, device_update
from lorasmith.engine.execution import Execution
from lorasmith.engine.state import TrainState
from lorasmith.engine.step import StepContext, numbers_at, slices
from lorasmith.session.startup import StartupContext

MAX_REASON = 300  # letters of a reason in a message


def with_execution(
    config: RunConfig, context: StepContext, state: TrainState, batches: RunBatches, startup: StartupContext
) -> tuple[StepContext, str]:
    """Makes the requested execution ready and returns the context that has it, and its name for the fingerprint. Where
    it is impossible a warning is recorded and the whole run is eager: no step is executed otherwise than the step
    before.

    Nothing that training depends on is changed.

    Raises:
        StopRequested: a stop was requested meanwhile.
    """
    obstacle = obstacle_to_graphs(config)
    name = chosen(config.machine.execution, context.device, obstacle)
    capture = capture_on(context.device) if name == "graph" else None
    if name == "graph" and obstacle:
        startup.warn("graph_obstacle", option=obstacle)
    elif name == "graph" and capture is None:
        startup.warn("graph_needs_gpu")
    if name == "eager" or (name == "graph" and (obstacle or capture is None)):
        return _eager(context, state), "eager"
    blocks = context.family.repeated_blocks(context.models) if name == "compiled" else []
    for attempt in range(2 if name == "compiled" else 1):
        if attempt:
            compile_in_another_folder()
        try:
            return _prepared(name, context, state, batches, capture, blocks, partial(startup.prepared, name)), name
        except (RuntimeError, MemoryError) as error:
            first, *_ = str(error).splitlines() or [""]  # what follows is for developers of torch
            reason = f"{type(error).__name__}: {first}"[:MAX_REASON]
        # Outside of the handler, so that the memory of the attempt is freed.
        compute_as_before(blocks)
        state.adapter.clear_gradient()
        context.device.release_memory()
    startup.warn("execution_failed", execution=name, reason=reason)
    return _eager(context, state), "eager"


def chosen(requested: str, device: Device, obstacle: str) -> str:
    """The execution that a setting names; for `auto` that of the device and the other settings. No timing decides, so
    the same machine gives the same answer."""
    if requested != "auto":
        return requested
    return "graph" if device.torch_device.type == "cuda" and not obstacle else "eager"


def obstacle_to_graphs(config: RunConfig) -> str:
    """The option with which no step can be recorded; "" where there is none.

    What is copied to and from the computer's memory on the way depends on what was copied before; and what is computed
    twice must draw the same numbers twice.
    """
    if config.model.base_offload:
        return "base-offload"
    if config.training.gradient_checkpointing == "offload":
        return "gradient-checkpointing offload"
    adapter = config.adapter
    has_dropout = adapter.dropout or adapter.rank_dropout or adapter.module_dropout
    return "gradient-checkpointing" if has_dropout and config.training.gradient_checkpointing != "none" else ""


def _eager(context: StepContext, state: TrainState) -> StepContext:
    return replace(context, update_on_device=_update(context, state, None))


def _prepared(
    name: str,
    context: StepContext,
    state: TrainState,
    batches: RunBatches,
    capture: Capture | None,
    blocks: Sequence[nn.Module],
    report: Callable[[int, int], None],
) -> StepContext:
    """The largest shapes first: the memory that they take on the way serves all others."""
    execution: Execution
    if name == "graph":
        assert capture is not None
        execution = CapturedExecution(context.losses, state, context.device, capture)
    else:
        execution, capture = CompiledExecution(context.execution, state.adapter, context.device, blocks), None
    shapes = sorted(_shapes_ahead(context, state, batches), key=lambda pair: -pair[0].latents.numel())
    report(0, len(shapes))
    for done, (batch, numbers) in enumerate(shapes, start=1):
        execution.prepare(batch, numbers)
        report(done, len(shapes))
    return replace(context, execution=execution, update_on_device=_update(context, state, capture))


def _shapes_ahead(context: StepContext, state: TrainState, batches: RunBatches) -> Iterator[tuple[Batch, Numbers]]:
    """A micro-batch of each shape that the run will meet, in the slices that it is computed in."""
    for step, micro in batches.of_each_shape(state.step + 1):
        _, batch = batches.at(step, micro)
        yield from slices(batch, numbers_at(context, step, micro, batch), state.micro_split)


def _update(context: StepContext, state: TrainState, capture: Capture | None) -> DeviceUpdate | None:
    return device_update(
        state,
        context.world,
        context.device,
        max_grad_norm=context.max_grad_norm,
        max_change_norm=context.max_change_norm,
        capture=capture,
    )
