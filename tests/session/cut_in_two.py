"""Part of a training with each of several optimizers, in a process of its own: `first` or `rest`, FOLDER, NAME …"""

import sys
from pathlib import Path

import torch
from torch import nn

from lorasmith.config.optimizer_table import OPTIMIZERS
from lorasmith.engine.optimizers import build_optimizer, update
from lorasmith.engine.state import Origin, TrainState
from lorasmith.targets import TargetModule
from tests.adapters.making import attached

SAVED_AT, END = 3, 7


def state_of(name: str) -> TrainState:
    torch.manual_seed(1)
    layers = nn.Sequential(nn.Linear(80, 640), nn.Conv2d(16, 32, 3), nn.Linear(24, 37))
    components = ("denoiser", "denoiser", "text_encoder")
    targets = [TargetModule(f"{name}.{at}", name, layers, str(at)) for at, name in enumerate(components)]
    adapter = attached(targets, rank=8)
    built = build_optimizer(name, adapter, base_lrs=dict.fromkeys(components, base_lr(name)), options={})
    return TrainState(0, adapter, built, None, Origin(0, 1))


def base_lr(name: str) -> float:
    return 1.0 if OPTIMIZERS[name].finds_rate else 1e-3


def take_steps(name: str, state: TrainState, last: int) -> None:
    """With gradients that are a function of the step, some of them zero, at falling rates."""
    gradient = state.adapter.gradient()
    for step in range(state.step + 1, last + 1):
        gradient.copy_(torch.randn(gradient.shape, generator=torch.Generator().manual_seed(step)))
        gradient[:: step + 1] = 0.0
        update(state.optimizer, [base_lr(name) / step] * 2, seed=step)
        state.step = step


def _first(name: str, folder: Path) -> None:
    state = state_of(name)
    take_steps(name, state, SAVED_AT)
    saved = {
        "counters": state.counters(),
        "adapter": state.adapter.tensors(),
        "optimizer": state.optimizer.state_dict(),
    }
    torch.save(saved, folder / f"{name}.first.pt")


def _rest(name: str, folder: Path) -> None:
    state = state_of(name)
    state.restore(**torch.load(folder / f"{name}.first.pt", weights_only=True))
    take_steps(name, state, END)
    torch.save(state.adapter.tensors(), folder / f"{name}.rest.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    part, place, *names = sys.argv[1:]
    for one in names:
        (_first if part == "first" else _rest)(one, Path(place))
