"""Generates pictures with the adapter, from the evaluation examples and from prompts.

Uses the models and the prediction that are trained, so that a sample shows what was learned and nothing else. Writes no
file and measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorasmith.data.types import Inputs
from lorasmith.diffusion.sampling import SamplingDefaults, denoise
from lorasmith.engine.device import map_in_batches
from lorasmith.engine.step import StepContext
from lorasmith.evaluation.choose import EvaluationSet, SampleSpec, to_bytes
from lorasmith.families.added_lora import taken_out
from lorasmith.families.base import ModelFamily

STEPS_OF_DISTILLED = 8
"""Steps of a sample of a base that was distilled to work in a few: as Z-Image-Turbo and Krea 2 Turbo are used, and
within what SDXL's are made for."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A generated picture."""

    spec: SampleSpec
    picture: NDArray[np.uint8]  # (H, W, 3)
    is_finite: bool


def generate(
    context: StepContext, evaluated_on: EvaluationSet, *, at_once: int, alive: Callable[[], None]
) -> list[Sample]:
    """Generates a picture for each of `evaluated_on.specs`, in order, at most `at_once` of them in a batch.

    A distilled base is sampled as people use it: in a few steps, and without the training adapter that is added to it
    in training. Loads the VAE and drops it again. `alive` is called at each prediction and each picture.

    Raises:
        RuntimeError: out of memory with a single picture.
        ModelError, OSError: the base model no longer exists or cannot be read.
    """
    specs = evaluated_on.specs

    def work(batch: Sequence[SampleSpec]) -> list[Tensor]:
        return _latents(context, batch, evaluated_on.empty_caption, alive=alive)

    with taken_out(context.family.weights.added, context.models["denoiser"]):
        latents = map_in_batches(
            specs,
            work,
            kind=lambda spec: (spec.latents_shape, spec.denoising_strength, spec.steps),
            at_once=at_once,
            device=context.device,
        )
    alive()
    vae = context.family.load_encoders(context.device.torch_device, only=("vae",))
    samples = []
    free_memory = context.device.free_memory()
    for spec, clean in zip(specs, latents, strict=True):
        alive()
        on_device = clean[None].to(context.device.torch_device)
        decoded = context.family.decode_latents(vae, on_device, free_memory=free_memory)[0].float().cpu()
        is_finite = bool(torch.isfinite(decoded).all())
        samples.append(Sample(spec, to_bytes(decoded.numpy()), is_finite))
    del vae
    context.device.release_memory()
    return samples


def sampling_of(family: ModelFamily) -> SamplingDefaults:
    """The sampler's settings for a model: those of its family, or those that distilled models are made for."""
    usual = family.traits.sampling
    if not family.weights.distilled:
        return usual
    return replace(usual, steps=STEPS_OF_DISTILLED, guidance=usual.guidance if usual.guidance_input else 1.0)


def _latents(
    context: StepContext, specs: Sequence[SampleSpec], empty_caption: Inputs, *, alive: Callable[[], None]
) -> list[Tensor]:
    """Generates latents, (C, h, w) on the CPU each, from specs of the same shape and denoising strength.

    Each is predicted with and without its caption; with it alone where no picture is guided, or where the denoiser
    takes the guidance as an input. The noise of each is a function of its own seed.
    """
    where, shape = context.device.torch_device, specs[0].latents_shape
    noise = torch.stack([_noise(spec) for spec in specs]).to(where)
    starts = (torch.zeros(shape) if spec.latents is None else spec.latents.float() for spec in specs)
    start = torch.stack(list(starts)).to(where)
    defaults = sampling_of(context.family)
    scales = [defaults.scale(spec.guidance, spec.embedded) for spec in specs]
    is_guided = not defaults.guidance_input and any(scale != 1 for scale in scales)
    without = [{**spec.inputs, **(spec.negative or empty_caption)} for spec in specs] if is_guided else []
    rows = [*without, *(spec.inputs for spec in specs)]
    inputs = {name: value.to(where) for name, value in context.family.collate(rows).items()}
    conditioning = context.family.conditioning(context.models, inputs)
    guidance = torch.tensor(scales, device=where)
    if defaults.guidance_input:
        conditioning[defaults.guidance_input] = guidance
    guidance = guidance[:, *[None] * len(shape)]

    def predict(noisy_latents: Tensor, timesteps: Tensor) -> Tensor:
        alive()
        if not is_guided:
            return context.family.predict(context.models, noisy_latents, timesteps, conditioning).float()
        both = torch.cat([noisy_latents, noisy_latents]), torch.cat([timesteps, timesteps])
        without, with_caption = context.family.predict(context.models, *both, conditioning).float().chunk(2)
        return without + guidance * (with_caption - without)

    strength = specs[0].denoising_strength
    steps = specs[0].steps or defaults.steps
    clean = denoise(predict, context.process, start, noise, denoising_strength=strength, steps=steps)
    return list(clean.cpu())


def _noise(spec: SampleSpec) -> Tensor:
    return torch.randn(spec.latents_shape, generator=torch.Generator().manual_seed(spec.seed))
