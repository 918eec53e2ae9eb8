"""Optimizers that do not continue from their state to the bit, each by another fault of real ones; and others that
do, though they look as if they did not."""

import random
from typing import Any

import numpy
import torch


class _Plain(torch.optim.Optimizer):
    def __init__(self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        super().__init__(params, {"lr": lr, "betas": betas})

    def step(self, closure: Any = None) -> None:
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


class DrawsOnItsOwn(_Plain):
    """From a generator that begins anew with every process."""

    def __init__(self, params: Any, lr: float = 1e-3) -> None:
        super().__init__(params, lr)
        self.generator = torch.Generator().manual_seed(42)

    def update(self, one: Any, lr: float) -> None:
        one.sub_(lr * one.grad * torch.rand((), generator=self.generator))


class LosesBits(_Plain):
    """On the way back from the weights that it evaluates it only comes near."""

    def eval(self) -> None:
        self.count = getattr(self, "count", 0) + 1

    def train(self) -> None:
        """Nothing."""

    def update(self, one: Any, lr: float) -> None:
        self.state[one]["kept"] = one.clone()
        one.sub_(lr * one.grad * (1 + getattr(self, "count", 0)))


class Remembers(_Plain):
    """Nothing is wrong with these."""


class DrawsAtRandom(_Plain):
    """From the generators of the whole process, which are seeded for every step."""

    def update(self, one: Any, lr: float) -> None:
        one.sub_(lr * one.grad * torch.rand(()) * random.random() * float(numpy.random.rand()))


class KeepsLess(_Plain):
    """In a precision that torch's own loading does not keep; it would show in the weights only much later."""

    def update(self, one: Any, lr: float) -> None:
        self.state[one].setdefault("kept", torch.zeros(4, dtype=torch.bfloat16))
        super().update(one, lr)


class NeedsAClosure(_Plain):
    """It computes the loss itself, again and again."""

    def step(self, closure: Any) -> None:  # type: ignore[override]
        closure()


class HidesCode(_Plain):
    """In a state that only unpickling could read."""

    def update(self, one: Any, lr: float) -> None:
        self.state[one]["kept"] = _Kept()
        super().update(one, lr)


class _Kept:
    pass
