"""The loop the demo's base model is trained with: seeded, resumable to the byte, one stage after another.

A stage's step is a function of (seed, step) and of the weights alone. Knows no pictures and no model.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

_log = logging.getLogger(__name__)
_SAVE_EVERY = 250
_WARMUP_STEPS = 100


@dataclass(frozen=True, slots=True)
class Stage:
    """A training of the base model: network, data and duration."""

    name: str
    modules: nn.ModuleDict
    loss_at: Callable[[int], Tensor]  # of step 1, 2, …
    steps: int
    lr: float
    lr_factors: dict[str, float]  # of modules that learn slower than `lr`, by name
    ema_decay: float  # 0: none is kept


def run_stage(stage: Stage, folder: Path, *, device: torch.device | None = None) -> nn.ModuleDict:
    """The modules as they are after `stage.steps` steps on `device` (without one: where they are), averaged where the
    stage keeps an average.

    Continues from `folder/<name>.pt`, which is written every 250 steps and at the end.
    """
    stage.modules.to(device)
    groups = [
        {"params": list(module.parameters()), "lr": stage.lr * stage.lr_factors.get(name, 1.0)}
        for name, module in stage.modules.items()
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0, betas=(0.9, 0.99), fused=True)
    base_lrs = [group["lr"] for group in optimizer.param_groups]
    average = {name: tensor.detach().clone() for name, tensor in stage.modules.state_dict().items()}
    file, done = folder / f"{stage.name}.pt", 0
    if file.exists():
        stored = torch.load(file, weights_only=True, map_location=device)
        done, average = stored["step"], stored["average"]
        stage.modules.load_state_dict(stored["modules"])
        optimizer.load_state_dict(stored["optimizer"])
    stage.modules.train()
    began, first, recent = time.monotonic(), done, torch.zeros((), device=device)
    while done < stage.steps:
        loss = stage.loss_at(done + 1)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(stage.modules.parameters(), 1.0)
        for group, base_lr in zip(optimizer.param_groups, base_lrs, strict=True):
            group["lr"] = base_lr * _factor(done, stage.steps)
        optimizer.step()
        optimizer.zero_grad()
        done += 1
        _follow(average, stage.modules, min(stage.ema_decay, (1 + done) / (10 + done)))
        recent += (loss.detach() - recent) / min(done - first, 100)  # read only where it is shown: a GPU need not wait
        if done % 50 == 0:
            seconds = (time.monotonic() - began) / (done - first)
            _log.info("%s %d/%d loss %.5f, %.3f s a step", stage.name, done, stage.steps, float(recent), seconds)
        if done % _SAVE_EVERY == 0 or done == stage.steps:
            _save(file, done, stage.modules, average, optimizer=optimizer)
    stage.modules.load_state_dict(average)
    return stage.modules.eval().requires_grad_(False)


def _factor(done: int, steps: int) -> float:
    warm = min(1.0, (done + 1) / _WARMUP_STEPS)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done / steps))))


@torch.no_grad()
def _follow(average: dict[str, Tensor], modules: nn.Module, decay: float) -> None:
    now = modules.state_dict()
    learned = [name for name, tensor in now.items() if tensor.is_floating_point()]
    # one call for all of them: on a GPU, calling is what takes the time
    torch._foreach_lerp_([average[name] for name in learned], [now[name] for name in learned], 1 - decay)
    for name in now.keys() - set(learned):
        average[name].copy_(now[name])


def _save(
    file: Path,
    step: int,
    modules: nn.Module,
    average: dict[str, Tensor],
    *,
    optimizer: torch.optim.Optimizer,
) -> None:
    stored = {
        "step": step,
        "modules": modules.state_dict(),
        "average": average,
        "optimizer": optimizer.state_dict(),
    }
    half = file.with_suffix(".half")
    torch.save(stored, half)
    os.replace(half, file)
