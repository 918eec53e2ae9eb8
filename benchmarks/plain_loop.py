"""The loop to compare with: the same steps done the obvious way, or with our layers and nothing around them.

    python -m benchmarks.plain_loop FOLDER [--layers ours] [--resolution 256] [--steps 10] [--device cuda]

FOLDER is a diffusers folder. `plain` is a minimal LoRA by autograd alone, AdamW over its tensors, no malloc settings.
`ours` has this project's loading, adapter, frozen layers and flat optimizer, but no data, ledger or supervisor: what is
left of a real step's time is the overhead of the program. Both do: noise, forward, backward, clip, update.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from lorasmith.adapters.base import LayerSettings
from lorasmith.adapters.flat import FlatAdapter
from lorasmith.adapters.lora import Lora
from lorasmith.engine.cpu import keep_freed_memory, speed_up_frozen
from lorasmith.engine.device import Device
from lorasmith.families import load_family
from lorasmith.families.recognize import recognize
from lorasmith.targets import TargetModule

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
# The layers of Stable Diffusion's attention blocks: 192 in version 1.5.
TARGETS = re.compile(
    r".*\.attentions\.\d+\.(proj_in|proj_out|transformer_blocks\.\d+\.(attn[12]\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2)))"
)
LATENT_PIXELS = 8
WORDS = 77
WARM_UP_STEPS = 2  # left out of the median
LR = 1e-4
MAX_GRAD_NORM = 1.0


class PlainLora(nn.Module):
    """The textbook's."""

    def __init__(self, base: nn.Linear | nn.Conv2d, rank: int) -> None:
        super().__init__()
        self.base = base
        self.down: nn.Module
        self.up: nn.Module
        if isinstance(base, nn.Conv2d):
            self.down = nn.Conv2d(base.in_channels, rank, 1, bias=False)
            self.up = nn.Conv2d(rank, base.out_channels, 1, bias=False)
        else:
            self.down = nn.Linear(base.in_features, rank, bias=False)
            self.up = nn.Linear(rank, base.out_features, bias=False)
        assert isinstance(self.up.weight, Tensor)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        # float32 whatever the base is, as a trained adapter has to be
        change: Tensor = self.up(self.down(x.float()))
        return y + change.to(y.dtype)


def our_unet(folder: Path, precision: str, device: torch.device) -> nn.Module:
    """As the program loads it: into memory of its own, where diffusers maps the file."""
    family = load_family(recognize(folder))
    return family.load_models(trained=(), dtype=PRECISIONS[precision], to=device)["denoiser"]


def frozen_unet(folder: Path, precision: str, device: torch.device) -> UNet2DConditionModel:
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=PRECISIONS[precision]).to(device)
    return unet.requires_grad_(False).eval()


def targets(unet: nn.Module) -> list[TargetModule]:
    found = []
    for path, _ in unet.named_modules():
        if TARGETS.fullmatch(path):
            found.append(TargetModule.inside(unet, path, name=path, component="denoiser"))
    return found


class Prepared(NamedTuple):
    """A trained model: what surrounds a pass through it, and what turns its gradients into an update."""

    opened: Callable[[], AbstractContextManager[None]]
    update: Callable[[], None]


def with_plain_layers(unet: nn.Module, rank: int) -> Prepared:
    """Attaches textbook pairs."""
    for target in targets(unet):
        base = target.module
        assert isinstance(base, nn.Linear | nn.Conv2d)
        target.replace_with(PlainLora(base, rank).to(base.weight.device))
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR)

    def update() -> None:
        nn.utils.clip_grad_norm_(trained, MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()

    return Prepared(nullcontext, update)


def with_our_layers(unet: nn.Module, rank: int) -> Prepared:
    """The same with this project's pairs, in one flat buffer."""
    settings = {target.name: LayerSettings(rank, rank) for target in targets(unet)}
    adapter = FlatAdapter.attach(Lora(), targets(unet), settings, seed=0)
    if adapter.flat.device.type == "cpu":
        speed_up_frozen(unet)
    adapter.join()
    flat = nn.Parameter(adapter.flat)
    flat.grad = adapter.gradient()
    optimizer = torch.optim.AdamW([flat], lr=LR, fused=True)

    def update() -> None:
        norm = torch.linalg.vector_norm(adapter.gradient())
        adapter.gradient().mul_(torch.clamp(MAX_GRAD_NORM / norm, max=1.0))
        optimizer.step()
        adapter.clear_gradient()

    return Prepared(adapter.opened, update)


def run_steps(unet: UNet2DConditionModel, prepared: Prepared, *, resolution: int, steps: int) -> list[float]:
    """Seconds of each step, on one random picture and caption."""
    generator = torch.Generator().manual_seed(0)
    side = resolution // LATENT_PIXELS
    shape = (1, unet.config.in_channels, side, side)
    device = unet.device
    words = torch.randn(1, WORDS, unet.config.cross_attention_dim, generator=generator).to(device, unet.dtype)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        sample = torch.randn(shape, generator=generator)
        target = torch.randn(shape, generator=generator).to(device)
        with prepared.opened():
            prediction = unet(sample.to(device, unet.dtype), torch.tensor([500], device=device), words).sample
            mse_loss(prediction.float(), target).backward()
        prepared.update()
        wait()
        seconds.append(time.perf_counter() - began)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a diffusers folder")
    parser.add_argument("--layers", choices=("plain", "ours"), default="plain")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="fp32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    asked = parser.parse_args()
    if asked.layers == "ours":
        keep_freed_memory()
    device = torch.device(asked.device)
    unet = (our_unet if asked.layers == "ours" else frozen_unet)(asked.folder, asked.precision, device)
    prepare = with_our_layers if asked.layers == "ours" else with_plain_layers
    seconds = run_steps(unet, prepare(unet, asked.rank), resolution=asked.resolution, steps=asked.steps)
    peak = Device(device, asked.device, "asked", torch.get_num_threads()).peak_memory()
    print(json.dumps({"step": statistics.median(seconds[WARM_UP_STEPS:]), "seconds": seconds, "peak_memory": peak}))


if __name__ == "__main__":
    main()
