"""The whole of the training mathematics: one step, from the batches to the updated adapter.

Knows no file, no ledger and no person. A step is done again, not counted, where it could not be applied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from lorasmith.data.types import Batch
from lorasmith.diffusion.losses import per_example_mse
from lorasmith.diffusion.noise_schedules import Draw, Draws
from lorasmith.engine.device import Device, is_out_of_memory, seed_model
from lorasmith.engine.optimizers import set_lr
from lorasmith.engine.state import TrainState
from lorasmith.engine.tree_sum import TreeSum
from lorasmith.errors import NonFiniteError, ResourceError
from lorasmith.families.base import ModelFamily
from lorasmith.seeding import fold


class Batches(Protocol):
    """The micro-batches of a run: a function of (step, micro), no cursor."""

    def at(self, step: int, micro: int) -> tuple[int, Batch]:
        """The epoch (from 1) and the micro-batch, on the CPU."""

    def examples_in(self, step: int) -> int:
        """How many examples the micro-batches of a step hold together; known without making one."""


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a step needs and does not change, built once."""

    seed: int
    family: ModelFamily
    models: Mapping[str, nn.Module]
    batches: Batches
    device: Device
    accumulation_steps: int
    max_grad_norm: float  # 0: never clipped
    base_lrs: Mapping[str, float]  # by component
    lr_factor_at: Callable[[int], float]
    set_checkpointing: Callable[[bool], None]
    picture_names: Sequence[str]  # by example id, for the message of a step that failed


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step that was applied, its numbers still on the device."""

    step: int
    epoch: int
    loss: Tensor  # 0-d: the mean over the examples of the step
    grad_norm: Tensor  # 0-d, before clipping
    found_inf: Tensor | None  # 0-d, > 0: nothing was applied; None where that was read before the update
    lr: dict[str, float]
    example_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """Nothing was applied: the same step is due again, on the same batch with the same draws."""

    step: int
    reason: str  # overflow, out_of_memory
    scale: float | None = None
    micro_split: int | None = None
    gradient_checkpointing: bool | None = None


def losses_of(context: StepContext, batch: Batch, draw: Draws) -> Tensor:
    """One loss per example, (B,), float32. Pure: the same arguments give the same numbers."""
    conditioning = context.family.conditioning(context.models, batch.inputs)
    noised = context.family.add_noise(batch.latents, draw)
    prediction = context.family.predict(context.models, noised, conditioning)
    return per_example_mse(prediction, noised.target)


def train_step(
    state: TrainState, context: StepContext, *, beat: Callable[[], None] = lambda: None
) -> StepResult | Repeat:
    """Takes `state` from k to k + 1 completed steps, or says why the same step is due again. `beat` is called
    after every micro-batch.

    Raises:
        NonFiniteError: the loss or the gradient is not finite; the adapter is untouched.
        ResourceError: out of memory with single examples and gradient checkpointing.
    """
    step = state.step + 1
    try:
        epoch, loss, example_ids = _sum_gradients(state, context, step, beat)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        state.adapter.clear_gradient()
    else:
        return _update(state, context, StepResult(step, epoch, loss, loss, None, {}, example_ids))
    # Outside of the handler, so that the failed attempt's activations are gone.
    return _make_room(state, context, step)


def _sum_gradients(
    state: TrainState, context: StepContext, step: int, beat: Callable[[], None]
) -> tuple[int, Tensor, tuple[int, ...]]:
    """Forward and backward of all micro-batches; leaves the gradient of the mean loss over the step's examples,
    scaled, in the adapter's buffer."""
    count = context.accumulation_steps
    scale = 1.0 if state.scaler is None else state.scaler.scale
    weight = scale / context.batches.examples_in(step)
    gradients = TreeSum(count)
    losses: list[Tensor] = []
    ids: list[int] = []
    epoch = 0
    for micro in range(count):
        state.adapter.clear_gradient()
        epoch, batch = context.batches.at(step, micro)
        losses.append(_backward(state, context, batch, step=step, micro=micro, weight=weight))
        ids += batch.example_ids
        gradient = state.adapter.gradient()
        gradients.add(micro, gradient.clone() if count > 1 else gradient)
        beat()
    total = gradients.total()
    if count > 1:
        state.adapter.gradient().copy_(total)
    return epoch, torch.cat(losses).mean(), tuple(ids)


def _backward(state: TrainState, context: StepContext, batch: Batch, *, step: int, micro: int, weight: float) -> Tensor:
    """Adds the gradient of weight × the sum of one micro-batch's losses to the buffer; its losses, (B,), detached.

    Cut into slices where memory ran out: each takes its rows of the whole micro-batch's draw.
    """
    size = len(batch)
    slices = min(state.micro_split, size)
    whole = Draw(context.seed, step, micro, size)
    where = context.device.torch_device
    losses = []
    for number in range(slices):
        start, stop = size * number // slices, size * (number + 1) // slices
        seed_model(fold(context.seed, "model", step, micro, number))
        part = batch.rows(start, stop).to(where)
        loss = losses_of(context, part, whole.rows(start))
        (loss.sum() * weight).backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
    return torch.cat(losses)


def _update(state: TrainState, context: StepContext, result: StepResult) -> StepResult | Repeat:
    """Unscales, checks, clips and applies the gradient in the adapter's buffer."""
    gradient = state.adapter.gradient()
    if state.scaler is not None:
        gradient.mul_(1.0 / state.scaler.scale)
    norm = torch.linalg.vector_norm(gradient)
    found_inf = None
    # Only AdamW can be told on the device not to apply: everywhere else the answer is read before the update.
    gated = context.device.is_async and state.scaler is None and "fused" in state.optimizer.defaults
    if gated:
        found_inf = (~(torch.isfinite(norm) & torch.isfinite(result.loss))).to(torch.float32)
        if state.found_inf is not None:  # sticky: after the first bad step nothing is applied until it is read
            found_inf = torch.maximum(found_inf, state.found_inf)
        state.found_inf = found_inf
        # torch's own way to gate a fused update on the device (as its GradScaler does)
        state.optimizer.found_inf = found_inf  # type: ignore[attr-defined]
        state.optimizer.grad_scale = None  # type: ignore[attr-defined]
    elif not math.isfinite(float(norm)) or not math.isfinite(float(result.loss)):
        return _refuse(state, context, result)
    if context.max_grad_norm > 0:
        gradient.mul_((context.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
    lrs = set_lr(state.optimizer, list(context.base_lrs.values()), context.lr_factor_at(result.step))
    state.optimizer.step()
    state.step = result.step
    if state.scaler is not None:
        state.scaler.step_applied()
    lr = dict(zip(context.base_lrs, lrs.values(), strict=True))
    return StepResult(result.step, result.epoch, result.loss, norm, found_inf, lr, result.example_ids)


def _refuse(state: TrainState, context: StepContext, result: StepResult) -> Repeat:
    """An infinite gradient under a loss scale is an overflow: halved, and done again. Anything else ends the run."""
    if state.scaler is not None and state.scaler.can_shrink() and math.isfinite(float(result.loss)):
        state.scaler.overflowed()
        return Repeat(result.step, "overflow", scale=state.scaler.scale)
    raise non_finite(context, result.step)


def non_finite(context: StepContext, step: int) -> NonFiniteError:
    """The error that names what the step was made of: pictures and timesteps, by micro-batch."""
    ids: list[int] = []
    timesteps: list[int] = []
    for micro in range(context.accumulation_steps):
        _, batch = context.batches.at(step, micro)
        noised = context.family.add_noise(batch.latents, Draw(context.seed, step, micro, len(batch)))
        ids += batch.example_ids
        timesteps += [int(one) for one in noised.timesteps]
    pictures = [context.picture_names[one] for one in ids]
    return NonFiniteError("non_finite", step=step, pictures=pictures, timesteps=timesteps)


def _make_room(state: TrainState, context: StepContext, step: int) -> Repeat:
    """The same step with less at once: micro-batches in more slices, then activations computed twice, then no more."""
    context.device.release_memory()
    largest = max(len(context.batches.at(step, micro)[1]) for micro in range(context.accumulation_steps))
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
