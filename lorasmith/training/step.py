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
from lorasmith.diffusion.noise_schedules import Draw
from lorasmith.errors import NonFiniteError, ResourceError
from lorasmith.families.base import ModelFamily
from lorasmith.seeding import fold
from lorasmith.training.device import Device, is_out_of_memory, seed_model
from lorasmith.training.optimizers import set_lr
from lorasmith.training.state import TrainState
from lorasmith.training.tree_sum import TreeSum


class Batches(Protocol):
    """The micro-batches of a run: a function of (step, micro), no cursor."""

    def at(self, step: int, micro: int) -> tuple[int, Batch]:
        """The epoch (from 1) and the micro-batch, on the CPU."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a step needs and does not change, built once."""

    seed: int
    family: ModelFamily
    models: Mapping[str, nn.Module]
    batches: Batches
    device: Device
    clip_skip: int
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
    is_bad: Tensor | None  # 0-d, > 0: nothing was applied; None where that was read before the update
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


def losses_of(parts: Parts, batch: Batch, draw: Draw) -> Tensor:
    """One loss per example, (B,), float32. Pure: the same arguments give the same numbers."""
    conditioning = batch.conditioning
    if conditioning is None:
        assert batch.tokens is not None
        conditioning = parts.family.encode_tokens(parts.models, batch.tokens, clip_skip=parts.clip_skip)
    noised = parts.family.add_noise(batch.latents, draw)
    prediction = parts.family.predict(parts.models, noised, conditioning)
    return per_example_mse(prediction, noised.target)


def train_step(state: TrainState, parts: Parts, *, beat: Callable[[], None] = lambda: None) -> StepResult | Repeat:
    """Takes `state` from k to k + 1 completed steps, or says why the same step is due again. `beat` is called
    after every micro-batch.

    Raises:
        NonFiniteError: the loss or the gradient is not finite; the adapter is untouched.
        ResourceError: out of memory with single examples and gradient checkpointing.
    """
    step = state.step + 1
    try:
        epoch, loss, example_ids = _sum_gradients(state, parts, step, beat)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        state.adapter.clear_gradient()
    else:
        return _update(state, parts, StepResult(step, epoch, loss, loss, None, {}, example_ids))
    # Outside of the handler, so that the failed attempt's activations are gone.
    return _make_room(state, parts, step)


def _sum_gradients(
    state: TrainState, parts: Parts, step: int, beat: Callable[[], None]
) -> tuple[int, Tensor, tuple[int, ...]]:
    """Forward and backward of all micro-batches; leaves the step's gradient, scaled, in the adapter's buffer."""
    count = parts.accumulation_steps
    scale = 1.0 if state.scaler is None else state.scaler.scale
    gradients = TreeSum(count)
    losses: list[Tensor] = []
    ids: list[int] = []
    epoch = 0
    for micro in range(count):
        state.adapter.clear_gradient()
        epoch, batch = parts.batches.at(step, micro)
        losses.append(_backward(state, parts, batch, step=step, micro=micro, scale=scale / count))
        ids += batch.example_ids
        gradient = state.adapter.gradient()
        gradients.add(micro, gradient.clone() if count > 1 else gradient)
        beat()
    total = gradients.total()
    if count > 1:
        state.adapter.gradient().copy_(total)
    return epoch, torch.cat(losses).mean(), tuple(ids)


def _backward(state: TrainState, parts: Parts, batch: Batch, *, step: int, micro: int, scale: float) -> Tensor:
    """Adds the gradient of scale × the mean loss of one micro-batch to the buffer; its losses, (B,), detached.

    Cut into slices where memory ran out: each takes its rows of the whole micro-batch's draw.
    """
    size = len(batch)
    slices = min(state.micro_split, size)
    whole = Draw(parts.seed, step, micro, size)
    where = parts.device.torch_device
    losses = []
    for number in range(slices):
        start, stop = size * number // slices, size * (number + 1) // slices
        seed_model(fold(parts.seed, "model", step, micro, number))
        part = moved(batch.rows(start, stop), where)
        loss = losses_of(parts, part, whole.rows(start))
        (loss.sum() * (scale / size)).backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
    return torch.cat(losses)


def _update(state: TrainState, parts: Parts, result: StepResult) -> StepResult | Repeat:
    """Unscales, checks, clips and applies the gradient in the adapter's buffer."""
    gradient = state.adapter.gradient()
    if state.scaler is not None:
        gradient.mul_(1.0 / state.scaler.scale)
    norm = torch.linalg.vector_norm(gradient)
    is_bad = None
    # Only AdamW can be told on the device not to apply: everywhere else the answer is read before the update.
    gated = parts.device.reads_late and state.scaler is None and "fused" in state.optimizer.defaults
    if gated:
        is_bad = (~(torch.isfinite(norm) & torch.isfinite(result.loss))).to(torch.float32)
        if state.found_bad is not None:  # sticky: after the first bad step nothing is applied until it is read
            is_bad = torch.maximum(is_bad, state.found_bad)
        state.found_bad = is_bad
        # torch's own way to gate a fused update on the device (as its GradScaler does)
        state.optimizer.found_inf = is_bad  # type: ignore[attr-defined]
        state.optimizer.grad_scale = None  # type: ignore[attr-defined]
    elif not math.isfinite(float(norm)) or not math.isfinite(float(result.loss)):
        return _refuse(state, parts, result)
    if parts.max_grad_norm > 0:
        gradient.mul_((parts.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
    lrs = set_lr(state.optimizer, list(parts.base_lrs.values()), parts.lr_factor_at(result.step))
    state.optimizer.step()
    state.step = result.step
    if state.scaler is not None:
        state.scaler.step_applied()
    lr = dict(zip(parts.base_lrs, lrs.values(), strict=True))
    return StepResult(result.step, result.epoch, result.loss, norm, is_bad, lr, result.example_ids)


def _refuse(state: TrainState, parts: Parts, result: StepResult) -> Repeat:
    """An infinite gradient under a loss scale is an overflow: halved, and done again. Anything else ends the run."""
    if state.scaler is not None and state.scaler.can_shrink() and math.isfinite(float(result.loss)):
        state.scaler.overflowed()
        return Repeat(result.step, "overflow", scale=state.scaler.scale)
    raise non_finite(parts, result.step)


def non_finite(parts: Parts, step: int) -> NonFiniteError:
    """The error that names what the step was made of: pictures and timesteps, by micro-batch."""
    ids: list[int] = []
    timesteps: list[int] = []
    for micro in range(parts.accumulation_steps):
        _, batch = parts.batches.at(step, micro)
        noised = parts.family.add_noise(batch.latents, Draw(parts.seed, step, micro, len(batch)))
        ids += batch.example_ids
        timesteps += [int(one) for one in noised.timesteps]
    pictures = [parts.picture_names[one] for one in ids]
    return NonFiniteError("non_finite", step=step, pictures=pictures, timesteps=timesteps)


def _make_room(state: TrainState, parts: Parts, step: int) -> Repeat:
    """The same step with less at once: micro-batches in more slices, then activations computed twice, then no more."""
    parts.device.release_memory()
    largest = max(len(parts.batches.at(step, micro)[1]) for micro in range(parts.accumulation_steps))
    if state.micro_split < largest:
        state.micro_split *= 2
    elif not state.gradient_checkpointing:
        state.gradient_checkpointing = True
        parts.set_checkpointing(True)
    else:
        raise ResourceError("out_of_memory", step=step)
    return Repeat(
        step,
        "out_of_memory",
        micro_split=state.micro_split,
        gradient_checkpointing=state.gradient_checkpointing,
    )


def moved(batch: Batch, where: torch.device) -> Batch:
    """The batch on the device that computes."""
    if where.type == "cpu":
        return batch
    return Batch(
        latents=batch.latents.to(where, non_blocking=True),
        conditioning=None if batch.conditioning is None else {k: v.to(where) for k, v in batch.conditioning.items()},
        tokens=None if batch.tokens is None else {k: v.to(where) for k, v in batch.tokens.items()},
        example_ids=batch.example_ids,
    )
