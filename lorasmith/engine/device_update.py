"""The update of a step on the device alone: sum, check, clipping and optimizer, of which the host reads nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from lorasmith.engine.capture import Capture, Work
from lorasmith.engine.device import Device
from lorasmith.engine.optimizers import set_rates
from lorasmith.engine.state import TrainState
from lorasmith.engine.world import World


class DeviceUpdate:
    """Applies the gradient of a step where it and the loss are finite, else nothing, now and at every later step.

    With a capture the work is recorded before the first step and replayed at each; without, the same operations are
    called one by one, on the same tensors.
    """

    def __init__(
        self,
        state: TrainState,
        world: World,
        *,
        max_grad_norm: float,
        max_change_norm: float,
        capture: Capture | None,
    ) -> None:
        self._adapter, self._optimizer, self._world = state.adapter, state.optimizer, world
        self._max_grad_norm, self._max_change_norm = max_grad_norm, max_change_norm
        where = state.adapter.flat.device
        # A CPU takes rates in double precision, a GPU's kernel in single: as the same rates given as Python's numbers.
        exact = torch.float64 if where.type == "cpu" else torch.float32
        self._rates = [torch.zeros((), dtype=exact, device=where) for _ in state.optimizer.param_groups]
        self._loss = torch.zeros((), device=where)
        self._numbers = torch.zeros(3, device=where)
        self.found_inf = torch.zeros((), device=where)
        """Positive from the first step on that was not finite: no update is applied any more."""
        self._apply: Work = self._work
        if capture is not None:
            self.found_inf.fill_(1.0)  # so that the calls that record apply nothing
            self._apply = capture.record(self._work)
            self.found_inf.zero_()
            self._adapter.clear_gradient()

    def __call__(self, loss: Tensor, lrs: Sequence[float]) -> Tensor:
        """Applies the adapter's gradient at these learning rates by group. Returns loss, norm of the gradient and
        `found_inf` on the device, (3,), to be copied before the next call."""
        self._loss.copy_(loss)
        set_rates(self._optimizer, lrs)
        for rate, lr in zip(self._rates, lrs, strict=True):
            rate.fill_(lr)
        self._apply()
        return self._numbers

    @torch.no_grad()
    def _work(self) -> None:
        gradient = self._adapter.gradient()
        norm = gradient_norm(gradient)
        is_bad = (~(torch.isfinite(norm) & torch.isfinite(self._loss))).to(torch.float32)
        self.found_inf.copy_(torch.maximum(self.found_inf, self._world.any_on_device(is_bad)))
        clip(gradient, norm, self._max_grad_norm)
        with self._read_from_device():
            self._optimizer.step()
        if self._max_change_norm:
            self._adapter.limit_norms(self._max_change_norm, unless=self.found_inf)
        self._numbers.copy_(torch.stack([self._loss, norm, self.found_inf]))

    @contextmanager
    def _read_from_device(self) -> Iterator[None]:
        """Has the optimizer read from the device whether it skips the update and at which rates it makes it. Afterwards
        it is as before: the rates in its state are numbers."""
        optimizer, groups = self._optimizer, self._optimizer.param_groups
        before = [{name: group[name] for name in ("lr", "capturable")} for group in groups]
        for group, rate in zip(groups, self._rates, strict=True):
            group.update(lr=rate, capturable=rate.device.type == "cuda")
        # The attributes by which torch's GradScaler has a fused optimizer skip.
        optimizer.found_inf, optimizer.grad_scale = self.found_inf, None  # type: ignore[attr-defined]
        try:
            yield
        finally:
            del optimizer.found_inf, optimizer.grad_scale  # type: ignore[attr-defined]
            for group, values in zip(groups, before, strict=True):
                group.update(values)


def device_update(
    state: TrainState,
    world: World,
    device: Device,
    *,
    max_grad_norm: float,
    max_change_norm: float,
    capture: Capture | None,
) -> DeviceUpdate | None:
    """The update of a run whose host need not wait for it; None where the host reads norm and loss before each update.

    The loss scale of fp16 is the host's. Only torch's fused optimizers can skip an update on the device; those that
    could be fused and are not have the word among their defaults too.

    Raises:
        RuntimeError: it cannot be captured.
    """
    is_possible = state.scaler is None and state.optimizer.defaults.get("fused") is True
    if not is_possible or not (device.is_async or capture is not None):
        return None
    return DeviceUpdate(state, world, max_grad_norm=max_grad_norm, max_change_norm=max_change_norm, capture=capture)


def gradient_norm(gradient: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(gradient, dtype=torch.float32)
    return norm


def clip(gradient: Tensor, norm: Tensor, max_norm: float) -> None:
    """Scales the gradient down to a norm of `max_norm` where it is larger; 0: never. As torch's `clip_grad_norm_`."""
    if max_norm > 0:
        gradient.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
