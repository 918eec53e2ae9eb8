"""The whole of the training mathematics: one step, from the batches to the updated adapter.

Knows no file, no ledger and no person. A step that could not be applied is repeated, not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from lorasmith.data.types import Batch
from lorasmith.diffusion.draw import Draw, NoiseOptions, Numbers, draw_numbers
from lorasmith.diffusion.process import NoiseProcess
from lorasmith.engine.device import Device, is_out_of_memory, seed_model
from lorasmith.engine.execution import Execution, Losses
from lorasmith.engine.optimizers import update
from lorasmith.engine.state import TrainState
from lorasmith.engine.tree_sum import TreeSum
from lorasmith.engine.world import World
from lorasmith.errors import NonFiniteError, ResourceError
from lorasmith.families.base import ModelFamily
from lorasmith.seeding import fold


class Batches(Protocol):
    """The micro-batches of a run: a function of (step, micro), no cursor."""

    def at(self, step: int, micro: int) -> tuple[int, Batch]:
        """The epoch (from 1) and the micro-batch, on the CPU."""

    def ids_at(self, step: int, micro: int) -> tuple[int, tuple[int, ...]]:
        """The epoch (from 1) and the examples of the micro-batch, without making it."""

    def examples_in(self, step: int) -> int:
        """The number of examples in all micro-batches of a step; known without making any."""


@dataclass(frozen=True, slots=True)
class StepContext:
    """Everything a step needs and does not change, built once."""

    seed: int
    family: ModelFamily
    models: Mapping[str, nn.Module]
    process: NoiseProcess  # on the device
    noise_options: NoiseOptions
    losses: Losses
    execution: Execution
    world: World
    batches: Batches
    device: Device
    accumulation_steps: int  # micro-batches in a step, of all processes together
    max_grad_norm: float  # 0: never clipped
    base_lrs: Mapping[str, float]  # by learning-rate group
    rates_at: Callable[[int], Sequence[float]]  # of these groups, for the step being made
    set_checkpointing: Callable[[bool], None]  # whether the activations of every block are computed twice
    picture_names: Sequence[str]  # by example id, for the message of a step that failed
    max_change_norm: float = 0.0  # of each layer's change after a step; 0: not limited


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step that was applied, its numbers still on the device."""

    step: int
    epoch: int
    loss: Tensor  # 0-d: the mean over the examples of the step, which is what the step minimised
    grad_norm: Tensor  # 0-d, before clipping
    found_inf: Tensor | None  # 0-d, > 0: nothing was applied; None where that was read before the update
    lr: dict[str, float]
    example_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """Nothing was applied: the same step is due again, on the same batch with the same numbers."""

    step: int
    reason: str  # overflow, out_of_memory
    scale: float | None = None
    micro_split: int | None = None
    gradient_checkpointing: bool | None = None


@dataclass(frozen=True, slots=True)
class _MicroBatch:
    """What a step keeps of a micro-batch besides its gradient."""

    epoch: int
    losses: Tensor  # (B,), detached, on the device
    example_ids: tuple[int, ...]


def train_step(
    state: TrainState, context: StepContext, *, beat: Callable[[], None] = lambda: None
) -> StepResult | Repeat:
    """Takes `state` from k to k + 1 completed steps, or returns why the same step is due again.

    Minimises the mean loss over all examples of the step: an example weighs the same whether its micro-batch is full
    or smaller, as the last of a bucket. `beat` is called after every micro-batch.

    Raises:
        NonFiniteError: the loss or the gradient is not finite; the adapter is unchanged.
        ResourceError: out of memory with single examples and gradient checkpointing.
    """
    step, count, scaler = state.step + 1, context.accumulation_steps, state.scaler
    weight = state.loss_scale / context.batches.examples_in(step)
    gradient, gradients = state.adapter.gradient(), TreeSum(count)
    done: list[_MicroBatch] = []
    out_of_memory = False
    try:
        for micro in context.world.micro_batches(count):
            state.adapter.clear_gradient()
            done.append(_forward_backward(state, context, step=step, micro=micro, weight=weight))
            gradients.add(micro, gradient.clone() if count > 1 else gradient)
            beat()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        out_of_memory = True
    # Outside of the handler, so that the activations of the failed attempt are freed.
    if context.world.any(out_of_memory):
        state.adapter.clear_gradient()
        return _repeat_with_less_memory(state, context, step)

    total = context.world.sum_tree(gradients)
    if total is not gradient:
        gradient.copy_(total)
    if scaler is not None:
        gradient.mul_(1.0 / scaler.scale)
    done = context.world.gather(done)
    loss = torch.cat([micro_batch.losses for micro_batch in done]).mean()
    norm = torch.linalg.vector_norm(gradient, dtype=torch.float32)

    found_inf = None
    if _can_skip_on_device(state, context):
        found_inf = _skip_where_not_finite(state, context, norm, loss)
    elif context.world.any(not (math.isfinite(float(norm)) and math.isfinite(float(loss)))):
        return _repeat_with_smaller_scale(state, context, step, loss)
    _clip(gradient, norm, context.max_grad_norm)

    lrs = _update(state, context, step)
    state.step_applied(found_inf)
    lr = dict(zip(context.base_lrs, lrs, strict=True))
    ids = tuple(example_id for micro_batch in done for example_id in micro_batch.example_ids)
    return StepResult(step, done[-1].epoch, loss, norm, found_inf, lr, ids)


def _update(state: TrainState, context: StepContext, step: int) -> list[float]:
    """Updates the adapter and returns the learning rates of its groups."""
    lrs = update(state.optimizer, context.rates_at(step), seed=fold(context.seed, "optimizer", step))
    if context.max_change_norm:
        state.adapter.limit_norms(context.max_change_norm)
    return lrs


def numbers_at(context: StepContext, step: int, micro: int, batch: Batch) -> Numbers:
    """The random numbers of a whole micro-batch, on the CPU."""
    return draw_numbers(Draw(context.seed, step, micro), batch.latents, context.noise_options)


def _forward_backward(state: TrainState, context: StepContext, *, step: int, micro: int, weight: float) -> _MicroBatch:
    """Adds the gradient of weight * (sum of the micro-batch's losses) to the adapter's gradient buffer.

    Since memory ran out, in slices: each takes its rows of the whole micro-batch's numbers.
    """
    epoch, batch = context.batches.at(step, micro)
    numbers = numbers_at(context, step, micro, batch)
    size, slices = len(batch), min(state.micro_split, len(batch))
    losses = []
    for number in range(slices):
        start, stop = size * number // slices, size * (number + 1) // slices
        # Dropout takes its numbers from the global generator, which is set here and not in what is executed.
        seed_model(fold(context.seed, "model", step, micro, number))
        losses.append(context.execution.forward_backward(batch.rows(start, stop), numbers.rows(start, stop), weight))
    return _MicroBatch(epoch, torch.cat(losses), batch.example_ids)


def _can_skip_on_device(state: TrainState, context: StepContext) -> bool:
    """Whether an update is skipped on the device, without the host waiting for the answer. Only torch's fused
    optimizers can do that; those that could be fused and are not have the word among their defaults too."""
    return context.device.is_async and state.scaler is None and state.optimizer.defaults.get("fused") is True


def _skip_where_not_finite(state: TrainState, context: StepContext, norm: Tensor, loss: Tensor) -> Tensor:
    """Has the optimizer skip this update, and every later update, if norm or loss is not finite. Returns that as a 0-d
    tensor that is positive where it is skipped; the host reads it a step later."""
    found_inf = (~(torch.isfinite(norm) & torch.isfinite(loss))).to(torch.float32)
    found_inf = context.world.any_on_device(found_inf)
    if state.found_inf is not None:
        found_inf = torch.maximum(found_inf, state.found_inf)
    state.found_inf = found_inf
    # The attributes by which torch's GradScaler has a fused optimizer skip.
    state.optimizer.found_inf = found_inf  # type: ignore[attr-defined]
    state.optimizer.grad_scale = None  # type: ignore[attr-defined]
    return found_inf


def _clip(gradient: Tensor, norm: Tensor, max_norm: float) -> None:
    """Scales the gradient down to a norm of `max_norm` where it is larger; 0: never. As torch's `clip_grad_norm_`."""
    if max_norm > 0:
        gradient.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))


def _repeat_with_smaller_scale(state: TrainState, context: StepContext, step: int, loss: Tensor) -> Repeat:
    """An infinite gradient of a finite, scaled loss is an overflow: the scale is halved. Anything else ends the run."""
    if state.scaler is not None and state.scaler.can_shrink() and math.isfinite(float(loss)):
        state.scaler.overflowed()
        return Repeat(step, "overflow", scale=state.scaler.scale)
    raise non_finite(context, step)


def _repeat_with_less_memory(state: TrainState, context: StepContext, step: int) -> Repeat:
    """Cuts micro-batches into twice as many slices, and computes activations twice when slices are single examples."""
    context.device.release_memory()
    largest = max(len(context.batches.ids_at(step, micro)[1]) for micro in range(context.accumulation_steps))
    if state.micro_split < largest:
        state.micro_split *= 2
    elif not state.gradient_checkpointing:
        state.gradient_checkpointing = True
        context.set_checkpointing(True)
    else:
        raise ResourceError("out_of_memory", step=step)
    return Repeat(
        step,
        "out_of_memory",
        micro_split=state.micro_split,
        gradient_checkpointing=state.gradient_checkpointing,
    )


def non_finite(context: StepContext, step: int) -> NonFiniteError:
    """The error that names what the step was made of: pictures and timesteps, by micro-batch."""
    ids: list[int] = []
    timesteps: list[int] = []
    for micro in range(context.accumulation_steps):
        _, batch = context.batches.at(step, micro)
        quantiles = numbers_at(context, step, micro, batch).quantiles
        ids += batch.example_ids
        timesteps += [int(timestep) for timestep in context.process.timesteps(quantiles, tuple(batch.latents.shape))]
    pictures = [context.picture_names[example_id] for example_id in ids]
    return NonFiniteError("non_finite", step=step, pictures=pictures, timesteps=timesteps)
