"""How long a layer of each kind of adapter takes, forward and backward, in layers of Stable Diffusion 1.5's sizes.

    python -m benchmarks.adapter_layers [--rank 16] [--rounds 9] [--precision fp32]

One thread, in milliseconds of its own time, the best of the rounds; the kinds take turns. The first column is the
frozen layer alone, which computes only the gradient of its input.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.adapters import adapter_kind
from lorasmith.adapters.base import LayerSettings
from lorasmith.adapters.flat import FlatAdapter
from lorasmith.engine.cpu import speed_up_frozen
from lorasmith.engine.device import DTYPES
from lorasmith.targets import TargetModule

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "4096 x 320 > 320": (lambda: nn.Linear(320, 320), (1, 4096, 320)),
    "4096 x 320 > 2560": (lambda: nn.Linear(320, 2560), (1, 4096, 320)),
    "1024 x 640 > 640": (lambda: nn.Linear(640, 640), (1, 1024, 640)),
    "256 x 1280 > 1280": (lambda: nn.Linear(1280, 1280), (1, 256, 1280)),
    "256 x 1280 > 10240": (lambda: nn.Linear(1280, 10240), (1, 256, 1280)),
    "77 x 768 > 1280": (lambda: nn.Linear(768, 1280), (1, 77, 768)),
    "1x1, 320, 64 x 64": (lambda: nn.Conv2d(320, 320, 1), (1, 320, 64, 64)),
    "3x3, 640, 32 x 32": (lambda: nn.Conv2d(640, 640, 3, padding=1), (1, 640, 32, 32)),
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora", {}),
    "loha": ("loha", {}),
    "lokr": ("lokr", {}),
    "lokr 8": ("lokr", {"factor": 8}),
    "lokr full": ("lokr", {"full_matrix": True}),
    "dora": ("dora", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--precision", default="fp32", choices=DTYPES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'':20}" + "".join(f"{name:>11}" for name in ("alone", *KINDS)))
    for name, (make, shape) in LAYERS.items():
        dtype = DTYPES[options.precision]
        models = [made(make().to(dtype), kind, options.rank) for kind in (None, *KINDS.values())]
        x = torch.randn(shape, dtype=dtype, requires_grad=True)
        rounds = [[seconds(model, x) for model in models] for _ in range(options.rounds)]
        best = [min(column) for column in zip(*rounds, strict=True)]
        print(f"{name:20}" + "".join(f"{1000 * one:11.1f}" for one in best), flush=True)


def made(layer: nn.Module, kind: tuple[str, dict[str, Any]] | None, rank: int) -> nn.Module:
    """The frozen layer, with an adapter that has moved if a kind is given."""
    model = nn.Sequential(layer.requires_grad_(False))
    if kind is not None:
        target = TargetModule("denoiser.0", "denoiser", model, "0")
        settings = {target.name: LayerSettings(rank, float(rank))}
        adapter = FlatAdapter.attach(adapter_kind(*kind), [target], settings, seed=1)
        adapter.flat.add_(torch.randn_like(adapter.flat), alpha=0.01)
    speed_up_frozen(model)
    return model


def seconds(model: nn.Module, x: Tensor) -> float:
    """The time of this thread that forward and backward take."""
    start = time.thread_time()
    y = model(x)
    y.backward(torch.ones_like(y))
    return time.thread_time() - start


if __name__ == "__main__":
    main()
