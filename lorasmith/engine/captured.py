"""Micro-batches as CUDA graphs: one recording for each shape of a batch, replayed over tensors that never move."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lorasmith.data.types import Batch
from lorasmith.diffusion.draw import Numbers
from lorasmith.engine.capture import Capture, Work
from lorasmith.engine.device import Device, generators_kept
from lorasmith.engine.execution import Losses, add_gradient
from lorasmith.engine.state import TrainState

Shapes = tuple[tuple[str, tuple[int, ...], torch.dtype], ...]
"""Name, shape and type of every input: what a recording is for."""


@dataclass(frozen=True, slots=True)
class _Recording:
    """The inputs and results of a recording, which stay where they are, and its replay."""

    batch: Batch
    numbers: Numbers
    weight: Tensor  # 0-d, float32
    losses: Tensor  # (B,), float32
    replay: Work


class CapturedExecution:
    """Replays forward and backward of a micro-batch. A shape is recorded before the first step or, where it is seen
    only later, when it is met: both give the bits of `EagerExecution`. Satisfies `Execution`."""

    def __init__(self, losses: Losses, state: TrainState, device: Device, capture: Capture) -> None:
        self._losses = losses
        self._state = state
        self._device = device
        self._capture = capture
        self._recordings: dict[Shapes, _Recording] = {}

    def __len__(self) -> int:
        return len(self._recordings)

    def forward_backward(self, batch: Batch, numbers: Numbers, weight: float) -> Tensor:
        batch, numbers = batch.mapped(self._device.sent), numbers.mapped(self._device.sent)
        # What is computed twice must draw the same numbers twice: no recording does. Since memory ran out.
        if self._state.gradient_checkpointing and self._state.adapter.draws:
            return add_gradient(self._losses, self._state.adapter, batch, numbers, weight)
        recording = self._recording_for(batch, numbers)
        for static, value in zip(_tensors(recording.batch, recording.numbers), _tensors(batch, numbers), strict=True):
            static.copy_(value)
        recording.weight.fill_(weight)
        recording.replay()
        return recording.losses.clone()

    def prepare(self, batch: Batch, numbers: Numbers) -> None:
        """Records the shape of a batch; leaves gradients and generators as they are."""
        self._recording_for(batch.mapped(self._device.sent), numbers.mapped(self._device.sent))

    def forget(self) -> None:
        self._recordings.clear()

    def _recording_for(self, batch: Batch, numbers: Numbers) -> _Recording:
        shapes = shapes_of(batch, numbers)
        if shapes not in self._recordings:
            self._recordings[shapes] = self._record(batch, numbers)
        return self._recordings[shapes]

    def _record(self, batch: Batch, numbers: Numbers) -> _Recording:
        static_batch, static_numbers = batch.mapped(torch.clone), numbers.mapped(torch.clone)
        weight, losses = (torch.zeros(shape, device=batch.latents.device) for shape in ((), (len(batch),)))

        def work() -> None:
            losses.copy_(add_gradient(self._losses, self._state.adapter, static_batch, static_numbers, weight))

        gradient = self._state.adapter.gradient()
        before = gradient.clone()
        with generators_kept(self._device):
            replay = self._capture.record(work)
        gradient.copy_(before)
        return _Recording(static_batch, static_numbers, weight, losses, replay)


def shapes_of(batch: Batch, numbers: Numbers) -> Shapes:
    """The key of a recording for such inputs."""
    named = {**batch.inputs, "noise": numbers.noise, "quantiles": numbers.quantiles}
    if numbers.perturbation is not None:
        named["perturbation"] = numbers.perturbation
    return tuple((name, tuple(value.shape), value.dtype) for name, value in named.items())


def _tensors(batch: Batch, numbers: Numbers) -> list[Tensor]:
    """All inputs, in one order for batches of the same shapes."""
    perturbation = [] if numbers.perturbation is None else [numbers.perturbation]
    return [*batch.inputs.values(), numbers.noise, numbers.quantiles, *perturbation]
