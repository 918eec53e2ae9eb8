"""Frozen layers of Stable Diffusion 1.5's shapes in the forms that the program gives them, beside those of torch.

    python -m benchmarks.frozen_layers [--precision bf16] [--threads 1] [--rounds 10]

Prints, for each shape, the least time of forward and backward in turn: torch's layer, the form of any processor, this
processor's. With one thread the time is the thread's own, which a busy machine changes little.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from lorasmith.engine import cpu, cpu_products
from lorasmith.engine.cpu_attention import attention
from lorasmith.processor import Processor

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Inputs, outputs and side of 3x3 convolutions; 256 px make 32 latent pixels.
CONVOLUTIONS = ((320, 320, 32), (640, 320, 32), (640, 640, 16), (1280, 1280, 16), (1280, 1280, 8), (1280, 1280, 4))
# Rows, inputs and outputs.
LINEARS = ((1024, 320, 320), (256, 640, 5120), (64, 1280, 1280), (64, 5120, 1280))
# Queries, keys and numbers of each of 8 heads.
ATTENTIONS = ((1024, 1024, 40), (1024, 77, 40), (256, 256, 80), (256, 77, 80), (64, 77, 160))
HEADS = 8
ANY_PROCESSOR = Processor("any", is_intel=False, flags=frozenset())

Ways = dict[str, Callable[..., Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="bf16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    asked = parser.parse_args()
    cpu.keep_freed_memory()
    torch.set_num_threads(asked.threads)
    clock = time.thread_time if asked.threads == 1 else time.perf_counter
    dtype = PRECISIONS[asked.precision]
    print(f"forms of this processor: {cpu.forms_of_processor() or 'those of any'}; ms, forward + backward")
    for inputs, outputs, side in CONVOLUTIONS:
        layer, x = nn.Conv2d(inputs, outputs, 3, padding=1), torch.randn(1, inputs, side, side)
        report(
            f"convolution {inputs} -> {outputs}, {side} px",
            ways_of(layer.to(dtype)),
            [x.to(dtype)],
            asked.rounds,
            clock,
        )
    for rows, inputs, outputs in LINEARS:
        layer = nn.Linear(inputs, outputs).to(dtype)
        x = torch.randn(1, rows, inputs, dtype=dtype)
        report(f"linear {inputs} -> {outputs}, {rows} rows", ways_of(layer), [x], asked.rounds, clock)
    for queries, keys, size in ATTENTIONS:
        parts = [torch.randn(1, count, HEADS, size, dtype=dtype).transpose(1, 2) for count in (queries, keys, keys)]
        ways = {"torch": scaled_dot_product_attention, "this": attention}
        report(f"attention {queries} x {keys}, {size}", ways, parts, asked.rounds, clock)


def ways_of(layer: nn.Module) -> Ways:
    """torch's layer, and both forms of it; each has weights of its own."""
    layer.requires_grad_(False)
    with patch.object(cpu, "read_processor", lambda: ANY_PROCESSOR):
        general = fast_form(layer)
    return {"torch": layer, "any processor": general, "this": fast_form(layer)}


def fast_form(layer: nn.Module) -> nn.Module:
    owner = nn.Sequential(copy.deepcopy(layer))
    cpu.speed_up_frozen(owner)
    return owner[0]


def report(name: str, ways: Ways, inputs: list[Tensor], rounds: int, clock: Callable[[], float]) -> None:
    inputs = [x.requires_grad_() for x in inputs]
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for way, function in ways.items():
            with patch.object(cpu_products, "_is_wide_intel", way == "this" and cpu_products._is_wide_intel):
                began = clock()
                y = function(*inputs)
                torch.autograd.grad(y, inputs, torch.ones_like(y))
                best[way] = min(best[way], clock() - began)
    times = ", ".join(f"{way} {seconds * 1000:.2f}" for way, seconds in best.items())
    print(f"{name}: {times} ({best['this'] / best['torch']:.2f} of torch's)", flush=True)


if __name__ == "__main__":
    main()
