"""One row of `benchmarks.gpu`, in a process of its own: steps of a random model of some size on a device.

    python -m benchmarks.gpu_step '{"how": "graph", "size": "sd15", "side": 512, "batch": 1, "device": "cuda"}'

`how`: textbook (PEFT's layers, autocast, AdamW, the loss read at each step), eager, graph, compiled, or same-bytes,
which takes steps of two shapes eagerly and as graphs and compares every bit of the adapter. Prints a JSON object.
The models are made on the device, with random weights: no file is read.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lorasmith.adapters.base import LayerSettings
from lorasmith.adapters.flat import FlatAdapter
from lorasmith.adapters.lora import Lora
from lorasmith.data.types import Batch
from lorasmith.demo.layouts import LAYOUTS, unet_config
from lorasmith.demo.sdxl_layout import sdxl_configs
from lorasmith.diffusion.draw import NoiseOptions
from lorasmith.diffusion.objective import MSE
from lorasmith.diffusion.process import DdpmProcess
from lorasmith.engine.capture import CallAgain, capture_on
from lorasmith.engine.captured import CapturedExecution
from lorasmith.engine.compiled import CompiledExecution
from lorasmith.engine.cpu import speed_up_frozen
from lorasmith.engine.device import Device, choose_device
from lorasmith.engine.device_update import device_update
from lorasmith.engine.execution import EagerExecution, losses_of
from lorasmith.engine.optimizers import build_optimizer
from lorasmith.engine.state import Origin, TrainState
from lorasmith.engine.step import StepContext, StepResult, numbers_at, train_step
from lorasmith.engine.world import SingleProcess
from lorasmith.families import latent_diffusion as ldm

RANK, LR, MAX_GRAD_NORM, SEED, WORDS, LATENT_PIXELS = 32, 1e-4, 1.0, 1, 77, 8
WARM_UP_STEPS = 5


@dataclass(frozen=True, slots=True)
class Row:
    """What is measured."""

    how: str
    size: str  # sd15, sdxl, or nano
    side: int  # pixels
    batch: int
    device: str
    steps: int = 40


def main() -> None:
    row = Row(**json.loads(sys.argv[1]))
    if row.device == "cpu":
        torch.set_num_threads(1)  # only that it runs is of interest
    measure = {"textbook": _textbook, "same-bytes": _same_bytes}.get(row.how, _program)
    print(json.dumps(measure(row)))


# -- models and inputs -----------------------------------------------------------------------------


def _config(row: Row) -> dict[str, Any]:
    return sdxl_configs("sdxl", 1000)["unet"] if row.size == "sdxl" else unet_config(LAYOUTS[row.size])


def _filled(unet: nn.Module, device: torch.device, dtype: torch.dtype) -> Any:
    """A model that was built without memory, with random weights on the device."""
    unet = unet.to(dtype).to_empty(device=device).requires_grad_(False).eval()
    torch.manual_seed(SEED)
    with torch.no_grad():
        for module in unet.modules():
            for name, part in module.named_parameters(recurse=False):
                if isinstance(module, nn.GroupNorm | nn.LayerNorm):
                    part.fill_(float(name == "weight"))
                else:
                    part.normal_(std=0.02) if part.ndim > 1 else part.zero_()
    return unet


def _inputs(row: Row, config: dict[str, Any], *, side: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    cells = side // LATENT_PIXELS
    inputs = {
        "latents": torch.randn(row.batch, 4, cells, cells, generator=generator),
        "prompt_embeds": torch.randn(row.batch, WORDS, config["cross_attention_dim"], generator=generator),
    }
    if row.size == "sdxl":
        width = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        inputs["text_embeds"] = torch.randn(row.batch, width, generator=generator)
        inputs["time_ids"] = torch.tensor([[side, side, 0, 0, side, side]] * row.batch).float()
    return inputs


class RandomFamily:
    """What a step asks of a family, for a UNet without files."""

    def conditioning(self, _: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return inputs

    def predict(self, models: Any, noisy: Tensor, timesteps: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        added = {name: conditioning[name] for name in ("text_embeds", "time_ids") if name in conditioning}
        return ldm.predict_with_unet(models["denoiser"], noisy, timesteps, conditioning["prompt_embeds"], added or None)


# -- this program ----------------------------------------------------------------------------------


def _run(row: Row, device: Device, sides: Sequence[int]) -> tuple[TrainState, StepContext]:
    """A run that takes pictures of these sides in turn, with the execution of the row."""
    config, dtype = _config(row), torch.bfloat16
    unet = _filled(ldm.unet_builder()(config), device.torch_device, dtype)
    targets = [target for target in ldm.unet_targets(unet) if ".attentions." in target.name]
    adapter = FlatAdapter.attach(Lora(), targets, {one.name: LayerSettings(RANK, RANK) for one in targets}, seed=SEED)
    adapter.set_training(True)
    speed_up_frozen(unet)
    adapter.join()
    optimizer = build_optimizer("adamw", adapter, base_lrs={"denoiser": LR}, options={})
    state = TrainState(0, adapter, optimizer, None, Origin(0, 1))
    ids = tuple(range(row.batch))
    batches = [Batch(_inputs(row, config, side=side), ids).mapped(device.sent) for side in sides]
    process = DdpmProcess.build(
        beta_start=0.00085,
        beta_end=0.012,
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        prediction="epsilon",
        zero_terminal_snr=False,
    ).to(device.torch_device)
    family: Any = RandomFamily()
    losses = partial(losses_of, family, {"denoiser": unet}, process=process, objective=MSE)
    order: Any = SimpleNamespace(
        at=lambda step, _: (1, batches[step % len(batches)]),
        ids_at=lambda *_: (1, ids),
        examples_in=lambda _: row.batch,
    )
    context = StepContext(
        seed=SEED,
        family=family,
        models={"denoiser": unet},
        process=process,
        noise_options=NoiseOptions(),
        losses=losses,
        execution=EagerExecution(losses, device, adapter),
        update_on_device=None,
        world=SingleProcess(),
        batches=order,
        device=device,
        accumulation_steps=1,
        max_grad_norm=MAX_GRAD_NORM,
        base_lrs={"denoiser": LR},
        rates_at=lambda step: [LR / (1 + step % 3)],
        set_checkpointing=lambda _: None,
        picture_names=["a picture"] * row.batch,
    )
    return state, _executed(row, state, context, len(sides))


def _executed(row: Row, state: TrainState, context: StepContext, shapes: int) -> StepContext:
    """The context with its execution ready for every shape."""
    capture = (capture_on(context.device) or CallAgain()) if row.how == "graph" else None
    execution: Any = context.execution
    if capture is not None:
        execution = CapturedExecution(context.losses, state, context.device, capture)
    if row.how == "compiled":
        blocks = ldm.repeated_unet_blocks(context.models["denoiser"])
        execution = CompiledExecution(context.execution, state.adapter, context.device, blocks)
    for step in range(1, shapes + 1):
        _, batch = context.batches.at(step, 0)
        execution.prepare(batch, numbers_at(context, step, 0, batch))
    bounds = {"max_grad_norm": MAX_GRAD_NORM, "max_change_norm": 0.0}
    update = device_update(state, context.world, context.device, **bounds, capture=capture)
    return replace(context, execution=execution, update_on_device=update)


def _program(row: Row) -> dict[str, Any]:
    device = choose_device(row.device, threads=0)
    began = time.perf_counter()
    state, context = _run(row, device, [row.side])
    ready = time.perf_counter() - began
    flops = _flops_of(state, context) if row.how == "eager" else None
    waiting: list[StepResult] = []

    def step() -> None:
        """Reads the numbers of a step while the next is computed, as a run does."""
        result = train_step(state, context)
        assert isinstance(result, StepResult)
        waiting.append(result)
        if len(waiting) > 1:
            assert waiting.pop(0).numbers().found_inf == 0

    return {**_timed(row, step), "ready": ready, "flops": flops}


def _flops_of(state: TrainState, context: StepContext) -> int:
    """Floating-point operations of a step's products, forward and backward."""
    counter = FlopCounterMode(display=False)
    with counter:
        train_step(state, context)
    return counter.get_total_flops()


def _same_bytes(row: Row) -> dict[str, Any]:
    """Whether eager and replayed steps of two shapes give the same bits, and where they differ first."""
    device = choose_device(row.device, threads=0)
    sides = [row.side, row.side + 64]
    runs = [_run(replace(row, how=how), device, sides) for how in ("eager", "graph")]
    for number in range(row.steps):
        losses = []
        for state, context in runs:
            result = train_step(state, context)
            assert isinstance(result, StepResult)
            losses.append(result.numbers().loss)
        if losses[0] != losses[1]:
            return {"same": False, "first": number + 1, "losses": losses}
    (one, _), (other, _) = runs
    return {"same": torch.equal(one.adapter.flat, other.adapter.flat), "steps": row.steps}


# -- the textbook ----------------------------------------------------------------------------------


def _textbook(row: Row) -> dict[str, Any]:
    """As diffusers' example trains a LoRA, on cached inputs that lie on the device."""
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig

    from benchmarks.plain_loop import TARGETS

    config, device, dtype = _config(row), torch.device(row.device), torch.bfloat16
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    unet = _filled(unet, device, dtype)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS.pattern))
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(trained, lr=LR)
    alphas = torch.linspace(0.999, 0.005, 1000, device=device)
    inputs = {name: value.to(device, dtype) for name, value in _inputs(row, config, side=row.side).items()}
    added = {name: inputs[name] for name in ("text_embeds", "time_ids") if name in inputs} or None

    def step() -> None:
        latents = inputs["latents"]
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (row.batch,), device=device)
        alpha = alphas.to(dtype)[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        with torch.autocast(device.type, dtype) if device.type == "cuda" else nullcontext():
            words = inputs["prompt_embeds"]
            prediction = unet(noisy, timesteps, words, added_cond_kwargs=added, return_dict=False)[0]
            loss = nn.functional.mse_loss(prediction.float(), noise.float())
        loss.backward()
        nn.utils.clip_grad_norm_(trained, MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # for its progress bar

    return _timed(row, step)


# -- the clock -------------------------------------------------------------------------------------


def _timed(row: Row, step: Callable[[], None]) -> dict[str, Any]:
    """Median seconds of a step, over pieces of five that end when the device has done them."""
    wait = torch.cuda.synchronize if row.device.startswith("cuda") else lambda: None
    for _ in range(WARM_UP_STEPS):
        step()
    wait()
    seconds, piece = [], min(5, row.steps)
    for _ in range(row.steps // piece):
        began = time.perf_counter()
        for _ in range(piece):
            step()
        wait()
        seconds.append((time.perf_counter() - began) / piece)
    return {
        "step": statistics.median(seconds),
        "peak_memory": Device(torch.device(row.device), "", "", 1).peak_memory(),
    }


if __name__ == "__main__":
    main()
