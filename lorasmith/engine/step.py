"""The whole of the training mathematics: one step, from the batches to the updated adapter.

Knows no file, no ledger and no person. A step that could not be applied is repeated, not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from lorasmith.data.types import Batch
from lorasmith.diffusion.draw import Draw, NoiseOptions, Numbers, draw_numbers
from lorasmith.diffusion.process import NoiseProcess
from lorasmith.engine.device import Device, is_out_of_memory, seed_model
from lorasmith.engine.device_update import DeviceUpdate, clip, gradient_norm
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
        """The epoch (from 1) and the micro-batch, on the CPU or on the device."""

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
    update_on_device: DeviceUpdate | None  # None: the host reads norm and loss before each update
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


class StepNumbers(NamedTuple):
    """The measurements of a step."""

    loss: float  # the mean over the examples of the step, which is what the step minimised
    grad_norm: float  # before clipping
    found_inf: float  # positive: this step or one before it was not finite, and nothing was applied


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step that was applied, as far as the host knows: its numbers may still lie on the device."""

    step: int
    epoch: int
    read: Callable[[], Sequence[float]]
    lr: dict[str, float]
    example_ids: tuple[int, ...]

    def numbers(self) -> StepNumbers:
        """Waits for the device to complete the step, but for none after it."""
        return StepNumbers(*self.read())


@dataclass(frozen=True, slots=True)
class Repeat:
    """Nothing was applied: the same step is due again, on the same batch with the same numbers."""

    step: int
    reason: str  # overflow, out_of_memory
    # What has changed, each None where it has not.
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
    if context.update_on_device is not None:
        lrs = list(context.rates_at(step))
        read = context.device.read_later(context.update_on_device(loss, lrs))
        state.step_applied(context.update_on_device.found_inf)
    else:
        norm = gradient_norm(gradient)
        numbers = [float(loss), float(norm), 0.0]
        if context.world.any(not all(map(math.isfinite, numbers))):
            return _repeat_with_smaller_scale(state, context, step, loss)
        clip(gradient, norm, context.max_grad_norm)
        lrs, read = _update(state, context, step), numbers.copy
        state.step_applied(None)
    lr = dict(zip(context.base_lrs, lrs, strict=True))
    ids = tuple(example_id for micro_batch in done for example_id in micro_batch.example_ids)
    return StepResult(step, done[-1].epoch, read, lr, ids)


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
    losses = []
    for number, (rows, their_numbers) in enumerate(slices(batch, numbers, state.micro_split)):
        # Dropout takes its numbers from the global generator, which is set here and not in what is executed.
        seed_model(fold(context.seed, "model", step, micro, number))
        losses.append(context.execution.forward_backward(rows, their_numbers, weight))
    return _MicroBatch(epoch, torch.cat(losses), batch.example_ids)


def slices(batch: Batch, numbers: Numbers, count: int) -> Iterator[tuple[Batch, Numbers]]:
    """The slices that a micro-batch is computed in, as equal as can be; at most one for each example."""
    size, count = len(batch), min(count, len(batch))
    for number in range(count):
        start, stop = size * number // count, size * (number + 1) // count
        yield batch.rows(start, stop), numbers.rows(start, stop)


def _repeat_with_smaller_scale(state: TrainState, context: StepContext, step: int, loss: Tensor) -> Repeat:
    """An infinite gradient of a finite, scaled loss is an overflow: the scale is halved. Anything else ends the run."""
    if state.scaler is not None and state.scaler.can_shrink() and math.isfinite(float(loss)):
        state.scaler.overflowed()
        return Repeat(step, "overflow", scale=state.scaler.scale)
    raise non_finite(context, step)


def _repeat_with_less_memory(state: TrainState, context: StepContext, step: int) -> Repeat:
    """Cuts micro-batches into twice as many slices, and computes activations twice when slices are single examples."""
    context.execution.forget()
    context.device.release_memory()
    largest = max(len(context.batches.ids_at(step, micro)[1]) for micro in range(context.accumulation_steps))
    if state.micro_split < largest:
        state.micro_split *= 2
        return Repeat(step, "out_of_memory", micro_split=state.micro_split)
    if state.gradient_checkpointing:
        raise ResourceError("out_of_memory", step=step)
    state.gradient_checkpointing = True
    context.set_checkpointing(True)
    return Repeat(step, "out_of_memory", gradient_checkpointing=True)


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
