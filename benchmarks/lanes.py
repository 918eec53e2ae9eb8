"""Lanes of memory: what each takes, beside its estimate, how long its steps last, and how far its losses are off.

    python -m benchmarks.lanes MODEL [--resolution 512] [--precision bf16] [--device cuda] [--steps 4] [--lane NAME …]

MODEL is a diffusers folder or a single file, a random one of the published size (`python -m lorasmith.demo.miniature`
makes it; `python -m benchmarks.quarter` makes those of flow matching). Each lane is a process of its own: it loads the
model as a run does, attaches a LoRA, and takes steps on a random picture. `peak` is the memory of these steps: of a GPU
what was allocated, with 0.7 GiB for what is not counted there, of a CPU the resident memory of the process. `load` is
the peak before them. --calculate takes no step.

The errors are those of the demo's base model, which is trained: the loss of 100 of its pictures at four timesteps and
fixed noise each, without an adapter, less that of the same pictures with the weights in bfloat16, with the standard
error of the difference; and the error of the prediction (root mean square, relative). They need a minute.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.quarter import MODELS
from lorasmith.config import RunConfig
from lorasmith.data.types import Batch, Example, Offset, Size
from lorasmith.diffusion.draw import Draw, NoiseOptions, Numbers, draw_numbers
from lorasmith.engine.cpu import keep_freed_memory, release_freed_memory
from lorasmith.engine.device import DTYPES, Device, choose_device
from lorasmith.engine.execution import EagerExecution, losses_of
from lorasmith.engine.optimizers import update
from lorasmith.evaluation.validation import QUANTILES
from lorasmith.families import footprint_of, load_family
from lorasmith.families.base import ModelFamily
from lorasmith.families.recognize import recognize
from lorasmith.session.frozen import load_frozen, set_checkpointing
from lorasmith.session.initial_state import initial_state
from lorasmith.session.lanes import CHECKPOINTING, FIXED, OFFLOAD, PRECISION, Settings, estimates
from lorasmith.session.objective import objective_of

ROOT = Path(__file__).resolve().parents[1]
GIB = 1 << 30
EXAMPLES = 100
AT_ONCE = 10
WORDS = 77
LANES: dict[str, Settings] = {
    "none": {},
    "elementwise": {CHECKPOINTING: "elementwise"},
    "feed-forward": {CHECKPOINTING: "feed-forward"},
    "selective": {CHECKPOINTING: "selective"},
    "block": {CHECKPOINTING: "block"},
    "offload": {CHECKPOINTING: "offload"},
    "int8": {PRECISION: "int8"},
    "elementwise int8": {CHECKPOINTING: "elementwise", PRECISION: "int8"},
    "elementwise nf4": {CHECKPOINTING: "elementwise", PRECISION: "nf4"},
    "selective int8": {CHECKPOINTING: "selective", PRECISION: "int8"},
    "block fp8": {CHECKPOINTING: "block", PRECISION: "fp8"},
    "block int8": {CHECKPOINTING: "block", PRECISION: "int8"},
    "block w8a8": {CHECKPOINTING: "block", PRECISION: "w8a8"},
    "block nf4": {CHECKPOINTING: "block", PRECISION: "nf4"},
    "block, quarter away": {CHECKPOINTING: "block", OFFLOAD: 0.25},
    "block int8, quarter away": {CHECKPOINTING: "block", PRECISION: "int8", OFFLOAD: 0.25},
    "block int8, half away": {CHECKPOINTING: "block", PRECISION: "int8", OFFLOAD: 0.5},
    "block, base away": {CHECKPOINTING: "block", OFFLOAD: 1.0},
    "block int8, base away": {CHECKPOINTING: "block", PRECISION: "int8", OFFLOAD: 1.0},
}
FORMS = ("fp32", "bf16", "fp8", "int8", "w8a8", "nf4")


class Losses(NamedTuple):
    """By example, and the predictions of all of them."""

    losses: Tensor  # (examples,) float64
    predictions: Tensor  # (examples * quantiles, C, h, w)


def main() -> None:
    asked = _arguments()
    if asked.only:
        print(json.dumps(measured(asked, asked.only)))
        return
    if asked.calculate:
        family = load_family(recognize(asked.model.resolve()))
        for name in asked.lane or LANES:
            print(f"{name:24}{_estimate(_config(asked, family, name), asked.resolution, family) / GIB:7.2f} GiB")
        return
    found = {}
    for name in asked.lane or LANES:
        found[name] = _in_a_process(asked, name)
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    first = next(iter(found.values()))
    print(f"\n{asked.model.name}, {asked.resolution} px, {asked.precision}, {asked.device}, torch {torch.__version__}")
    print(f"{'':24}{'peak':>9}{'estimate':>10}{'ratio':>7}{'load':>9}{'step':>9}{'to first':>10}")
    for name, one in found.items():
        sizes = f"{one['peak'] / GIB:8.2f}G{one['estimate'] / GIB:9.2f}G{one['estimate'] / one['peak']:7.2f}"
        times = f"{one['step']:8.2f}s{one['step'] / first['step']:9.2f}x"
        print(f"{name:24}{sizes}{one['load'] / GIB:8.2f}G{times}")
    if asked.errors:
        show_errors()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--lane", action="append", choices=tuple(LANES))
    parser.add_argument("--no-errors", dest="errors", action="store_false")
    parser.add_argument("--calculate", action="store_true", help="no step: the estimates alone, of a model of any size")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # in a process of its own
    return parser.parse_args()


# -- memory and time -------------------------------------------------------------------------------


def _in_a_process(asked: argparse.Namespace, lane: str) -> dict[str, Any]:
    names = ("resolution", "precision", "device", "steps")
    options = [word for name in names for word in (f"--{name}", str(getattr(asked, name)))]
    command = [sys.executable, "-m", "benchmarks.lanes", str(asked.model), "--only", lane, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{lane} ended with {done.returncode}\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measured(asked: argparse.Namespace, lane: str) -> dict[str, Any]:
    """The memory and the time of a lane's steps, and the estimate of its memory."""
    keep_freed_memory()
    device = choose_device(asked.device, threads=0)
    weights = recognize(asked.model.resolve())
    family, dtype = load_family(weights), DTYPES[asked.precision]
    config = _config(asked, family, lane)
    models = load_frozen(config.model, family, trained=(), dtype=dtype, device=device)
    state = initial_state(config, family, models, {}, precision=asked.precision)
    set_checkpointing(config.training, family, models, state.gradient_checkpointing)
    release_freed_memory()
    load = _peak(device)
    _forget_peak(device)
    losses = partial(
        losses_of,
        family,
        models,
        process=family.noise_process().to(device.torch_device),
        objective=objective_of(config.loss, weights.noise.prediction),
    )
    execution = EagerExecution(losses, device, state.adapter)
    batch = Batch(_inputs(family, asked.resolution), (0,))
    seconds = []
    for step in range(1, asked.steps + 1):
        began = time.perf_counter()
        state.adapter.clear_gradient()
        numbers = draw_numbers(Draw(1, step, 0), batch.latents, NoiseOptions())
        found = execution.forward_backward(batch, numbers, 1.0)
        update(state.optimizer, [1e-4] * len(state.adapter.groups()), seed=step)
        assert bool(torch.isfinite(found).all())
        seconds.append(time.perf_counter() - began)
    return {
        "peak": _peak(device),
        "estimate": _estimate(config, asked.resolution, family),
        "load": load,
        "step": statistics.median(seconds[1:]),
    }


def _config(asked: argparse.Namespace, family: ModelFamily, lane: str) -> RunConfig:
    own: Settings = {("model", "family"): family.weights.family, ("model", "precision"): asked.precision}
    return RunConfig().with_values({**own, ("machine", "device"): asked.device, **LANES[lane]})


def _estimate(config: RunConfig, resolution: int, family: ModelFamily) -> int:
    """Of the steps alone: here nothing is encoded."""
    sizes = footprint_of(family.weights)
    assert sizes is not None
    size = Size(resolution, resolution)
    examples = [Example(Path("a"), "", 1, size, size, size, Offset(0, 0), "", "")]
    fixed = (CHECKPOINTING, PRECISION, OFFLOAD)
    (found,) = estimates(config, family.weights, sizes, examples, memory=GIB, fixed=fixed)
    return found.base + found.adapter + found.activations + found.fixed


def _inputs(family: ModelFamily, resolution: int) -> dict[str, Tensor]:
    """Of a random picture and its caption."""
    if family.weights.noise.prediction == "flow":
        return family.collate([MODELS[family.traits.name].row(family, resolution, WORDS)])
    generator = torch.Generator().manual_seed(1)
    side, config = resolution // 8, family.weights.configs["unet"]
    inputs = {"latents": torch.randn(1, 4, side, side, generator=generator)}
    if family.traits.name != "sdxl":
        return inputs | {"prompt_embeds": torch.randn(1, WORDS, config["cross_attention_dim"], generator=generator)}
    widths = [family.weights.configs[name]["hidden_size"] for name in family.traits.text_encoders]
    pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    return inputs | {
        **{
            f"{name}_embeds": torch.randn(1, WORDS, width, generator=generator)
            for name, width in zip(family.traits.text_encoders, widths, strict=True)
        },
        "pooled": torch.randn(1, pooled, generator=generator),
        "time_ids": torch.tensor([[resolution, resolution, 0, 0, resolution, resolution]], dtype=torch.float32),
    }


def _peak(device: Device) -> int:
    return device.peak_memory() + (FIXED if device.torch_device.type == "cuda" else 0)


def _forget_peak(device: Device) -> None:
    if device.torch_device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


# -- errors ----------------------------------------------------------------------------------------


def show_errors() -> None:
    """The losses of the demo's base model with its weights in each form."""
    device = choose_device("cpu", threads=0)
    weights = recognize(ROOT / "lorasmith" / "demo" / "base_model")
    family = load_family(weights)
    rows = _demo_inputs(family, device)
    found = {form: _losses(family, rows, form, device) for form in FORMS}
    before = found["bf16"]
    print(f"\nloss of {len(rows)} pictures of the demo at fixed noise: {float(before.losses.mean()):.5f} in bf16")
    print(f"{'':8}{'difference':>14}{'standard error':>16}{'prediction off by':>19}")
    for form in FORMS:
        off = found[form].losses - before.losses
        error = float(off.std()) / math.sqrt(len(off))
        rms = float((found[form].predictions - before.predictions).norm() / before.predictions.norm())
        print(f"{form:8}{float(off.mean()):+14.6f}{error:16.6f}{rms:18.2%}")


def _demo_inputs(family: ModelFamily, device: Device) -> list[dict[str, Tensor]]:
    """The inputs of pictures that the demo's base model knows, no two alike."""
    import numpy as np

    from lorasmith.demo.scenes import known_scenes, pictures

    scenes = known_scenes()
    scenes = (scenes * (EXAMPLES // len(scenes) + 1))[:EXAMPLES]
    encoders = family.load_encoders(device.torch_device)
    rows = []
    for scene, picture in zip(scenes, pictures(1, scenes), strict=True):
        pixels = torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1
        rows.append({**family.encode_image(encoders, pixels), **family.encode_caption(encoders, scene.caption)})
    return rows


@torch.no_grad()
def _losses(family: ModelFamily, rows: list[dict[str, Tensor]], form: str, device: Device) -> Losses:
    precision = "fp32" if form == "fp32" else "bf16"
    model = RunConfig().model.model_copy(update={"base_precision": "auto" if form in DTYPES else form})
    models = load_frozen(model, family, trained=(), dtype=DTYPES[precision], device=device)
    process, objective = family.noise_process(), objective_of(RunConfig().loss, family.weights.noise.prediction)
    losses, predictions = [], []

    def noted(_module: Any, _inputs: Any, output: Any) -> None:
        predictions.append(output[0].to(torch.float32))

    models["denoiser"].register_forward_hook(noted)
    for first in range(0, len(rows), AT_ONCE):
        chosen = range(first, min(first + AT_ONCE, len(rows)))
        inputs = family.collate([rows[number] for number in chosen for _ in QUANTILES])
        numbers = Numbers.joined(
            [
                replace(
                    draw_numbers(Draw(number, place, 0), rows[number]["latents"][None], NoiseOptions()),
                    quantiles=torch.tensor([quantile]),
                )
                for number in chosen
                for place, quantile in enumerate(QUANTILES)
            ]
        )
        batch = Batch(inputs, tuple(range(len(inputs["latents"]))))
        found = losses_of(family, models, batch, numbers, process=process, objective=objective)
        losses.append(found.double().view(-1, len(QUANTILES)).mean(1))
    return Losses(torch.cat(losses), torch.cat(predictions))


if __name__ == "__main__":
    main()
