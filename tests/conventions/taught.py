"""Teaches the miniature of a family to draw: its denoiser is trained whole, through diffusers' own pipeline.

What the denoiser is fed and what its output means are the pipeline's business here, so that nothing of the family under
test goes into the weights. The text encoder and the VAE keep their random weights: captions and pictures are told apart
by them well enough.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lorasmith.demo.scenes import CONCEPT, Scene, draw
from lorasmith.seeding import fold
from tests.conventions.families import FAMILIES, Taught

SIDE = 64  # pixels
BATCH, RATE = 12, 4e-3
PLACES = 1  # pictures of each scene
GROUNDS = ("black", "white", "yellow")
SCENES = [
    Scene("large", colour, shape, ground)
    for number, shape in enumerate(("circle", "square", "triangle", "cross"))
    for colour, ground in zip(("red", "blue", "green"), GROUNDS[number % 3 :] + GROUNDS[: number % 3], strict=True)
]
"""What the base model learns: captions of about equal lengths, no two alike in shape and colour."""
UNSEEN = [Scene("large", "", CONCEPT, ground) for ground in GROUNDS]
"""What a LoRA learns."""


def asking_at_levels(pipeline: Any) -> Any:
    """A scheduler that has the pipeline ask its denoiser once, each example at its own of `levels`, and keeps what the
    pipeline takes for the velocity as `velocity`."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    class AtLevels(FlowMatchEulerDiscreteScheduler):
        levels: Tensor
        velocity: Tensor

        def set_timesteps(self, *_: Any, sigmas: Any = None, **__: Any) -> None:
            self.timesteps = self.config.num_train_timesteps * self.levels[None]

        def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **_: Any) -> tuple[Tensor]:
            self.velocity = model_output
            return (sample,)

    return AtLevels.from_config(pipeline.scheduler.config)


def picture(scene: Scene, place: int = 0) -> Image.Image:
    """A scene always looks the same at a place, so that a denoiser may learn it by heart."""
    drawn = draw(scene, random.Random(fold(3, "place", place)))
    return drawn.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def pixels_of(pictures: Sequence[Image.Image]) -> Tensor:
    """(B, 3, H, W) in [-1, 1]."""
    values = np.stack([np.asarray(one) for one in pictures])
    return torch.from_numpy(values).permute(0, 3, 1, 2).float() / 127.5 - 1


def load_pipeline(folder: Path, family: Taught) -> Any:
    """diffusers' pipeline in float32, silent."""
    pipeline = family.load(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def velocity(pipeline: Any, family: Taught, latents: Tensor, levels: Tensor, captions: Sequence[str]) -> Tensor:
    """What the pipeline would move noisy latents by, from its own call; its scheduler is of `asking_at_levels`."""
    groups: dict[int, list[int]] = {}
    for number, caption in enumerate(captions):
        groups.setdefault(family.length_of(pipeline, caption), []).append(number)
    kind: Any = type(pipeline)
    call, found = kind.__call__.__wrapped__, []  # without no_grad
    for numbers in groups.values():
        pipeline.scheduler.levels = levels[numbers]
        call(
            pipeline,
            prompt=[captions[number] for number in numbers],
            latents=family.packed(pipeline, latents[numbers]),
            height=SIDE,
            width=SIDE,
            num_inference_steps=1,
            output_type="latent",
            **family.call,
        )
        found.append(family.unpacked(pipeline, pipeline.scheduler.velocity, SIDE))
    order = torch.tensor([number for numbers in groups.values() for number in numbers])
    return torch.cat(found)[order.argsort()]


def teach(folder: Path, name: str) -> list[float]:
    """Trains the denoiser in a diffusers folder and writes it back; the losses."""
    family = FAMILIES[name]
    steps = family.steps
    _measure_latents(folder, family)
    pipeline = load_pipeline(folder, family)
    pipeline.scheduler = asking_at_levels(pipeline)
    torch.manual_seed(1)
    denoiser = type(pipeline.transformer).from_config(pipeline.transformer.config)
    pipeline.transformer = denoiser
    pictures = family.latents(pipeline, pixels_of([picture(scene) for scene in SCENES]))
    pipeline.encode_prompt = Remembered(pipeline.encode_prompt)
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.0)
    losses = []
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        chosen = torch.randperm(len(SCENES), generator=generator)[:BATCH]
        clean = pictures[chosen]
        levels = torch.rand(BATCH, generator=generator).clamp(0.02, 0.98)
        noise = torch.randn(clean.shape, generator=generator)
        share = levels.view(-1, *[1] * (clean.ndim - 1))
        noisy = (1 - share) * clean + share * noise
        found = velocity(pipeline, family, noisy, levels, [SCENES[number].caption for number in chosen])
        loss = (found - (noise - clean)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.step()
        losses.append(float(loss.detach()))
    denoiser.save_pretrained(folder / "transformer")
    return losses


def _measure_latents(folder: Path, family: Taught) -> None:
    """Has the VAE give the latents of these pictures a mean of 0 and a deviation of 1."""
    pipeline = load_pipeline(folder, family)
    with torch.no_grad():
        family.measure(pipeline, family.encoded(pipeline, pixels_of([picture(scene) for scene in (*SCENES, *UNSEEN)])))
    pipeline.vae.save_pretrained(folder / "vae")


class Remembered:
    """A pipeline's `encode_prompt` that encodes each caption once."""

    def __init__(self, encode: Any) -> None:
        self._encode = encode
        self._known: dict[str, Any] = {}

    def __call__(self, prompt: Sequence[str], **options: Any) -> tuple[Any, ...]:
        for caption in set(prompt) - self._known.keys():
            with torch.no_grad():
                self._known[caption] = self._encode(prompt=[caption], **options)
        found = zip(*(self._known[caption] for caption in prompt), strict=True)
        return tuple(_joined(parts) for parts in found)


def _joined(parts: tuple[Any, ...]) -> Any:
    if isinstance(parts[0], Tensor):
        return torch.cat(parts) if len(parts[0]) == 1 else parts[0]  # positions, the same for all
    return None if parts[0] is None else [one for part in parts for one in part]
