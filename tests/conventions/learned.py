"""What a LoRA of ours changes in a taught miniature, as diffusers' pipeline sees it: the loss of pictures that the base
model has never seen, and the pictures that it draws of their captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import unfold

from lorasmith.errors import ExitCode
from lorasmith.families.image_encoders import load_clip
from lorasmith.families.locate import DEMO_MODEL
from lorasmith.metrics.clip import embeddings, semantic_losses
from tests.conventions.families import FAMILIES, Taught
from tests.conventions.taught import (
    SCENES,
    SIDE,
    UNSEEN,
    asking_at_levels,
    load_pipeline,
    picture,
    pixels_of,
    velocity,
)
from tests.end_to_end.workshop import Values, Workshop

STEPS = 100
DRAWS = 8  # of noise, for each picture
SAMPLER_STEPS = 20
SETTINGS: Values = {
    ("dataset", "resolution"): SIDE,
    ("adapter", "rank"): 8,
    ("adapter", "alpha"): 8.0,
    ("optimizer", "lr"): 1e-2,
    ("training", "batch_size"): len(UNSEEN),
    ("export", "save_precision"): "fp32",
}


@dataclass(frozen=True)
class Learned:
    """Of the base model and with the LoRA."""

    losses: tuple[float, float]  # at s = 0.5
    distances: tuple[float, float]  # of samples from pictures of the same captions: 1 - cosine, by the demo's CLIP


def train_lora(base: Path, work: Path) -> Path:
    """A LoRA of the unseen pictures, trained as a person trains it; the exported file."""
    pictures = work / "lora_train_set" / "1_unseen"
    pictures.mkdir(parents=True)
    for number, scene in enumerate(UNSEEN):
        picture(scene).save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text(scene.caption, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        workshop = Workshop(work, base, patch)
        assert workshop.new(STEPS, SETTINGS).exit_code == ExitCode.FINISHED
    return workshop.run.export("last")


def learned(base: Path, name: str, lora: Path) -> Learned:
    """Before and after, at the same noise."""
    family = FAMILIES[name]
    pipeline = load_pipeline(base, family)
    draws = Drawings(pipeline, family)
    before = _loss(pipeline, family), draws.distance(pipeline)
    pipeline.load_lora_weights(str(lora))
    after = _loss(pipeline, family), draws.distance(pipeline)
    return Learned((before[0], after[0]), (before[1], after[1]))


def _loss(pipeline: Any, family: Taught) -> float:
    scenes = UNSEEN * DRAWS
    own = pipeline.scheduler
    pipeline.scheduler = asking_at_levels(pipeline)
    try:
        with torch.no_grad():
            clean = family.latents(pipeline, pixels_of([picture(scene) for scene in scenes]))
            noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(6))
            levels = torch.full((len(scenes),), 0.5)
            found = velocity(pipeline, family, (clean + noise) / 2, levels, [scene.caption for scene in scenes])
    finally:
        pipeline.scheduler = own
    return float((found - (noise - clean)).square().mean())


class Drawings:
    """What the pipeline draws of the unseen captions, beside the real pictures.

    The miniature's VAE is random: it encodes, but what it decodes is no picture. A linear regression from latents to
    pixels, over the pictures that are known, stands in for its decoder, for samples and real pictures alike.
    """

    def __init__(self, pipeline: Any, family: Taught) -> None:
        self._family = family
        known = [picture(scene, place) for scene in (*SCENES, *UNSEEN) for place in range(4)]
        latents = family.latents(pipeline, pixels_of(known))
        self._tile = SIDE // latents.shape[-1]
        inputs = _neighbourhoods(latents).flatten(0, 1).double()
        tiles = unfold(pixels_of(known), self._tile, stride=self._tile).transpose(1, 2).flatten(0, 1).double()
        square = inputs.T @ inputs + 1e-3 * len(inputs) * torch.eye(inputs.shape[1], dtype=torch.float64)
        self._weights = torch.linalg.solve(square, inputs.T @ tiles)
        self._clip = load_clip(str(DEMO_MODEL / "clip"))
        real = family.latents(pipeline, pixels_of([picture(scene) for scene in UNSEEN]))
        self._real = self._embedded(self.drawn(real)).repeat_interleave(DRAWS, 0)
        self._shape = real.shape[1:]

    def pictures(self, pipeline: Any) -> list[Image.Image]:
        """Some of each unseen caption, by the pipeline's own sampler."""
        noise = torch.randn(DRAWS, *self._shape, generator=torch.Generator().manual_seed(5))
        pipeline.scheduler = _keeping_its_last(pipeline)
        found: list[Image.Image] = []
        for scene in UNSEEN:
            pipeline(
                prompt=[scene.caption] * DRAWS,
                latents=self._family.packed(pipeline, noise),
                height=SIDE,
                width=SIDE,
                num_inference_steps=SAMPLER_STEPS,
                output_type="latent",
                **self._family.call,
            )
            found += self.drawn(self._family.unpacked(pipeline, pipeline.scheduler.last, SIDE))
        return found

    def drawn(self, latents: Tensor) -> list[Image.Image]:
        tiles = (_neighbourhoods(latents).double() @ self._weights).float().transpose(1, 2)
        pixels = torch.nn.functional.fold(tiles, SIDE, self._tile, stride=self._tile)
        values = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return [Image.fromarray(one) for one in values]

    def distance(self, pipeline: Any) -> float:
        return fmean(semantic_losses(self._embedded(self.pictures(pipeline)), self._real))

    def _embedded(self, pictures: Sequence[Image.Image]) -> Tensor:
        return embeddings(self._clip, [np.array(one) for one in pictures])


def _keeping_its_last(pipeline: Any) -> Any:
    """The pipeline's scheduler, which keeps where it has come as `last`."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    class Keeping(FlowMatchEulerDiscreteScheduler):
        last: Tensor

        def step(self, *given: Any, **options: Any) -> Any:
            found = super().step(*given, **options)
            self.last = found[0]
            return found

    return Keeping.from_config(pipeline.scheduler.config)


def _neighbourhoods(latents: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h * w, 9 C + 1): each place with those around it, and a constant."""
    around = unfold(latents, 3, padding=1).transpose(1, 2)
    return torch.cat([around, torch.ones(*around.shape[:2], 1)], 2)
