"""A run whose denoiser is one linear layer, for tests of a step: what a step needs, without a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.data.types import Batch
from lorasmith.diffusion.draw import NoiseOptions
from lorasmith.diffusion.objective import MSE
from lorasmith.diffusion.process import Noised
from lorasmith.engine.captured import CapturedExecution
from lorasmith.engine.device import Device
from lorasmith.engine.device_update import device_update
from lorasmith.engine.execution import EagerExecution, losses_of
from lorasmith.engine.optimizers import build_optimizer
from lorasmith.engine.state import Origin, TrainState
from lorasmith.engine.step import StepContext
from lorasmith.engine.world import SingleProcess
from tests.adapters.making import attached_to_all

CPU = Device(torch.device("cpu"), "", "asked", 1)
SEED, BATCH, LR = 5, 4, 0.1


class Process:
    """Adds the noise as it is; answers what a step asks of a noise process."""

    def timesteps(self, quantiles: Tensor, latents_shape: tuple[int, ...]) -> Tensor:
        return (quantiles * 10).long()

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Noised:
        return Noised(latents + noise, timesteps, target=noise)


class Layer:
    """A family whose denoiser is one linear layer; answers what a step asks of a family."""

    def conditioning(self, models: Mapping[str, nn.Module], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"text": inputs["text"]}

    def predict(self, models: Mapping[str, nn.Module], x: Tensor, timesteps: Tensor, text: dict[str, Tensor]) -> Tensor:
        rows = models["denoiser"](x.flatten(1, 2))  # 4 dimensions would be taken for a convolution's
        return rows.view_as(x) + text["text"]


@dataclass(frozen=True)
class Batches:
    """Micro-batches made from their number, of these sizes."""

    sizes: tuple[int, ...]

    def at(self, step: int, micro: int) -> tuple[int, Batch]:
        generator = torch.Generator().manual_seed(100 * step + micro)
        _, ids = self.ids_at(step, micro)
        size = len(ids)
        latents = torch.randn(size, 3, 2, 4, generator=generator)
        text = torch.randn(size, 1, 1, 4, generator=generator)
        return step, Batch({"latents": latents, "text": text}, example_ids=ids)

    def ids_at(self, step: int, micro: int) -> tuple[int, tuple[int, ...]]:
        first = sum(self.sizes[:micro])
        return step, tuple(range(first, first + self.sizes[micro]))

    def examples_in(self, _step: int) -> int:
        return sum(self.sizes)


def made(
    *, accumulation: int = 1, optimizer: str = "adamw", sizes: tuple[int, ...] = (), **other: Any
) -> tuple[TrainState, StepContext]:
    torch.manual_seed(1)
    denoiser = nn.Sequential(nn.Linear(4, 4))
    denoiser.requires_grad_(False)
    adapter = attached_to_all(denoiser, rank=4)
    with torch.no_grad():
        adapter.flat.add_(0.1)  # a pair that is zero has no gradient in its first half
    built = build_optimizer(optimizer, adapter, base_lrs={"denoiser": LR}, options={})
    state = TrainState(0, adapter, built, other.pop("scaler", None), Origin(0, 1))
    models = {"denoiser": denoiser}
    device = other.pop("device", CPU)
    world, capture = other.pop("world", SingleProcess()), other.pop("capture", None)
    bounds = {"max_grad_norm": other.pop("max_grad_norm", 0.0), "max_change_norm": other.pop("max_change_norm", 0.0)}
    losses: Any = partial(losses_of, Layer(), models, process=Process(), objective=MSE)
    context = StepContext(
        seed=SEED,
        family=Layer(),
        models=models,
        process=Process(),
        noise_options=NoiseOptions(),
        losses=losses,
        execution=CapturedExecution(losses, state, device, capture)
        if capture
        else EagerExecution(losses, device, adapter),
        update_on_device=device_update(state, world, device, **bounds, capture=capture),
        world=world,
        batches=Batches(sizes or (BATCH,) * accumulation),
        device=device,
        accumulation_steps=len(sizes) or accumulation,
        base_lrs={"denoiser": LR},
        rates_at=lambda step: [LR * (0.5 if step == 1 else 1.0)],
        set_checkpointing=lambda enabled: None,
        picture_names=[f"{number}.png" for number in range(100)],
        **bounds,
    )
    return state, context
