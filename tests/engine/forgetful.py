"""Optimizers that do not continue from their state to the bit, each by another fault of real ones."""

from typing import Any

import torch


class _Plain(torch.optim.Optimizer):
    def __init__(self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        super().__init__(params, {"lr": lr, "betas": betas})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        del closure
        with torch.no_grad():
            for group in self.param_groups:
                for one in group["params"]:
                    self.update(one, group["lr"])

    def update(self, one: Any, lr: float) -> None:
        one.sub_(lr * one.grad)


class KeepsAnAttribute(_Plain):
    """What it remembers is not in its state."""

    count = 0

    def update(self, one: Any, lr: float) -> None:
        self.count += 1
        one.sub_(lr / self.count * one.grad)


class DrawsAtRandom(_Plain):
    """From the generator of the whole process."""

    def update(self, one: Any, lr: float) -> None:
        one.sub_(lr * one.grad * torch.rand(()))


class KeepsLess(_Plain):
    """In a precision that loading does not keep; it shows in the weights only much later, if ever."""

    def update(self, one: Any, lr: float) -> None:
        self.state[one].setdefault("kept", torch.zeros(4, dtype=torch.bfloat16))
        super().update(one, lr)


class Remembers(_Plain):
    """Nothing is wrong with this one."""
