"""How many operators a training step dispatches: this program, an earlier one, the textbook loop with PEFT's layers.

    python -m benchmarks.launches [--before CHECKOUT] [--layers cpu] [--family sdxl] [--precision fp32] [--device cuda]

A GPU waits for the calls of an eager step and not for its computation: fewer of them are what makes it faster there.
Counts the second step of a random model with every layer of the real one and few channels: the number of operators
depends on the layers and not on their width. `--layers gpu`, the default, takes the forms of the layers that a GPU gets
on whatever device computes here; `cpu` those for a CPU (wide layers only are replaced by faster forms: `--size sd15`).

`all` counts every operator below autograd, `computing` those that are neither a view nor an empty tensor nor the
reading of a number. On a GPU the kernels are counted too, by torch's profiler.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parents[1]
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
RESOLUTION, LATENT_PIXELS, WORDS = 128, 8, 77
LR, MAX_GRAD_NORM, SEED = 1e-4, 1.0, 1
# Views besides those that are marked as such, memory without numbers, and numbers that a CPU has already.
NOT_COMPUTING = ("aten.empty", "aten.new_empty", "aten._unsafe_view", "aten._local_scalar_dense", "profiler.")
SIZES = {"sd15": "narrow", "sdxl": "miniature"}  # with every layer of the real model


class Counting(TorchDispatchMode):
    """Counts operators by name, as they arrive below autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.views = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(operator)
        self.names[name] += 1
        self.views += operator.is_view or name.startswith(NOT_COMPUTING)
        return operator(*args, **(kwargs or {}))


def main() -> None:
    asked = _arguments()
    if asked.count:
        print(json.dumps(_counted(asked)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        model = asked.model or _made_model(Path(temporary) / "model", asked)
        programs = {"textbook": ("textbook", ROOT), "ours": ("program", ROOT)}
        if asked.before:
            programs["before"] = ("program", asked.before.resolve())
        found = {name: _in_a_process(asked, model, *program) for name, program in programs.items()}
    print(f"{asked.family}, {asked.precision}, layers for a {asked.layers}")
    kinds = [kind for kind in ("all", "computing", "kernels") if kind in found["ours"]]
    print(f"{'':10}" + "".join(f"{kind:>12}" for kind in kinds))
    for name, one in found.items():
        print(f"{name:10}" + "".join(f"{one[kind]:12}" for kind in kinds))
    for name in found.keys() - {"ours"}:
        ratios = "".join(f"{found['ours'][kind] / found[name][kind]:12.2f}" for kind in kinds)
        print(f"ours / {name}: {ratios}")
    if asked.top:
        for name, one in found.items():
            print(f"\n{name}:")
            for operator, count in list(one["operators"].items())[: asked.top]:
                print(f"{count:7}  {operator}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of this program to compare with")
    parser.add_argument("--family", choices=tuple(SIZES), default="sd15")
    parser.add_argument("--size", help="of the random model, as `lorasmith.demo.miniature` has it")
    parser.add_argument("--layers", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="bf16")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--top", type=int, default=0, help="so many of the most frequent operators are shown")
    parser.add_argument("--model", type=Path, help="a diffusers folder in place of a random model")
    parser.add_argument("--count", choices=("textbook", "program"), help=argparse.SUPPRESS)  # in a process of its own
    return parser.parse_args()


def _made_model(folder: Path, asked: argparse.Namespace) -> Path:
    from lorasmith.demo.miniature import make_model

    return make_model(folder, family=asked.family, size=asked.size or SIZES[asked.family])


def _in_a_process(asked: argparse.Namespace, model: Path, count: str, checkout: Path) -> dict[str, Any]:
    """Counts with the program of a checkout: this file runs as a script, so that only its own folder comes first."""
    names = ("family", "layers", "precision", "device", "rank")
    options = [word for name in names for word in (f"--{name}", str(getattr(asked, name)))]
    command = [sys.executable, "-P", __file__, "--count", count, "--model", str(model), *options]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{checkout}: {count} ended with {done.returncode}\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _counted(asked: argparse.Namespace) -> dict[str, Any]:
    step = {"textbook": _textbook, "program": _program}[asked.count](asked)
    step()  # makes the state of the optimizer
    counting = Counting()
    with counting:
        step()
    total = counting.names.total()
    found = {"all": total, "computing": total - counting.views, "operators": dict(counting.names.most_common())}
    if asked.device == "cuda":
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            step()
            torch.cuda.synchronize()
        found["kernels"] = sum(
            str(event.device_type()) == "DeviceType.CUDA" for event in seen.profiler.kineto_results.events()
        )
    return found


# -- the steps -------------------------------------------------------------------------------------


def _inputs(asked: argparse.Namespace, config: Any) -> dict[str, Tensor]:
    """A random picture's and caption's, on the CPU."""
    generator = torch.Generator().manual_seed(SEED)
    side = RESOLUTION // LATENT_PIXELS
    inputs = {
        "latents": torch.randn(1, config.in_channels, side, side, generator=generator),
        "prompt_embeds": torch.randn(1, WORDS, config.cross_attention_dim, generator=generator),
    }
    if asked.family == "sdxl":
        sizes = torch.tensor([[RESOLUTION, RESOLUTION, 0, 0, RESOLUTION, RESOLUTION]])
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        inputs |= {"pooled": torch.randn(1, width, generator=generator), "time_ids": sizes.float()}
        words = inputs["prompt_embeds"]  # of two encoders, as this program keeps them
        inputs["text_encoder_embeds"], inputs["text_encoder_2_embeds"] = words[..., :32], words[..., 32:]
    return inputs


def _textbook(asked: argparse.Namespace) -> Callable[[], None]:
    """As diffusers' example trains a LoRA: PEFT's layers in float32 on a frozen UNet, autocast, AdamW. Its layers are
    those of attention and feed-forward, as this program's. On a GPU the optimizer takes all tensors in few calls."""
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig

    from benchmarks.plain_loop import TARGETS

    dtype, device = PRECISIONS[asked.precision], torch.device(asked.device)
    unet = UNet2DConditionModel.from_pretrained(asked.model / "unet", torch_dtype=dtype).to(device)
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=asked.rank, lora_alpha=asked.rank, target_modules=TARGETS.pattern))
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    in_few_calls = True if asked.layers == "gpu" else None
    optimizer = torch.optim.AdamW(trained, lr=LR, foreach=in_few_calls)
    alphas = torch.linspace(0.999, 0.005, 1000, device=device)
    inputs = _inputs(asked, unet.config)
    added_names = {"text_embeds": "pooled", "time_ids": "time_ids"} if asked.family == "sdxl" else {}

    def step() -> None:
        latents, words = inputs["latents"].to(device, dtype), inputs["prompt_embeds"].to(device, dtype)
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (1,), device=device)
        alpha = alphas.to(dtype)[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        added = {name: inputs[own].to(device, dtype) for name, own in added_names.items()} or None
        is_mixed = dtype != torch.float32
        with torch.autocast(device.type, dtype) if is_mixed else nullcontext():
            prediction = unet(noisy, timesteps, words, added_cond_kwargs=added, return_dict=False)[0]
            loss = nn.functional.mse_loss(prediction.float(), noise.float(), reduction="mean")
        loss.backward()
        nn.utils.clip_grad_norm_(trained, MAX_GRAD_NORM, foreach=in_few_calls)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _program(asked: argparse.Namespace) -> Callable[[], None]:
    """`engine.step` of the checkout that is imported, which may be an earlier one."""
    from lorasmith.engine.step import StepResult, train_step
    from lorasmith.families import load_family
    from lorasmith.families.recognize import recognize

    family = load_family(recognize(asked.model))
    models = family.load_models(trained=(), dtype=PRECISIONS[asked.precision], to=torch.device(asked.device))
    state = _state(asked, family, models)
    context = _context(asked, family, models, state)

    def step() -> None:
        assert isinstance(train_step(state, context), StepResult)

    return step


def _state(asked: argparse.Namespace, family: Any, models: Any) -> Any:
    """A LoRA on the layers of attention and feed-forward, and its optimizer."""
    from lorasmith.adapters import lora
    from lorasmith.adapters.base import LayerSettings
    from lorasmith.adapters.flat import FlatAdapter
    from lorasmith.engine.cpu import speed_up_frozen
    from lorasmith.engine.optimizers import build_optimizer
    from lorasmith.engine.state import Origin, TrainState

    if asked.layers == "gpu":
        for name in ("LoraLayer", "ConvolutionLoraLayer"):
            setattr(lora, f"Cpu{name}", getattr(lora, name))
    targets = [target for target in family.target_modules(models) if ".attentions." in target.name]
    settings = {target.name: LayerSettings(asked.rank, asked.rank) for target in targets}
    adapter = FlatAdapter.attach(lora.Lora(), targets, settings, seed=SEED)
    adapter.set_training(True)
    if asked.layers == "cpu":
        for model in models.values():
            speed_up_frozen(model)
    if hasattr(adapter, "join"):  # an earlier program has no such
        adapter.join()
    optimizer = build_optimizer("adamw", adapter, base_lrs={"denoiser": LR}, options={})
    return TrainState(0, adapter, optimizer, None, Origin(0, 1))


def _context(asked: argparse.Namespace, family: Any, models: Any, state: Any) -> Any:
    """What the step of this checkout asks for: fields that it does not have are left out."""
    from lorasmith.data.types import Batch
    from lorasmith.diffusion.draw import NoiseOptions
    from lorasmith.diffusion.objective import MSE
    from lorasmith.engine.device import Device
    from lorasmith.engine.execution import EagerExecution, losses_of
    from lorasmith.engine.step import StepContext
    from lorasmith.engine.world import SingleProcess

    class Asynchronous(Device):
        """A device that computes while Python goes on, as a GPU does."""

        is_async = asked.layers == "gpu"

    device = Asynchronous(torch.device(asked.device), "", "asked", torch.get_num_threads())
    batch = Batch(_inputs(asked, models["denoiser"].config), (0,))
    process = family.noise_process().to(device.torch_device)
    losses = partial(losses_of, family, models, process=process, objective=MSE)
    fields = {
        "seed": SEED,
        "family": family,
        "models": models,
        "process": process,
        "noise_options": NoiseOptions(),
        "losses": losses,
        "execution": _made(EagerExecution, {"losses": losses, "device": device, "adapter": state.adapter}),
        "update_on_device": _update_on_device(state, device),
        "world": SingleProcess(),
        "batches": SimpleNamespace(at=lambda *_: (1, batch), ids_at=lambda *_: (1, (0,)), examples_in=lambda *_: 1),
        "device": device,
        "accumulation_steps": 1,
        "max_grad_norm": MAX_GRAD_NORM,
        "base_lrs": {"denoiser": LR},
        "rates_at": lambda _: [LR],
        "set_checkpointing": lambda _: None,
        "picture_names": ["a picture"],
    }
    return _made(StepContext, fields)


def _update_on_device(state: Any, device: Any) -> Any:
    """None where the checkout has no such, or the device waits for every step."""
    from lorasmith.engine.world import SingleProcess

    try:
        from lorasmith.engine.device_update import device_update
    except ImportError:
        return None
    bounds = {"max_grad_norm": MAX_GRAD_NORM, "max_change_norm": 0.0}
    return device_update(state, SingleProcess(), device, **bounds, capture=None)


def _made(kind: Callable[..., Any], fields: dict[str, Any]) -> Any:
    """An object made of those of the fields that it takes."""
    taken = inspect.signature(kind).parameters
    return kind(**{name: value for name, value in fields.items() if name in taken})


if __name__ == "__main__":
    main()
