"""The loss of a taught miniature under a family's conventions, and under wrong guesses of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.demo.scenes import Scene
from lorasmith.families import load_family
from lorasmith.families.base import ModelFamily
from lorasmith.families.recognize import recognize
from tests.conventions.families import FAMILIES, Taught
from tests.conventions.taught import SCENES, load_pipeline, picture, pixels_of

CPU = torch.device("cpu")
AT_ONCE = 12
DRAWS = 4  # of noise for each picture
LEVELS = (0.25, 0.5, 0.75)
"""At 0.5 a picture and its noise have equal shares: whoever reverses the time is not seen there."""


@dataclass(frozen=True)
class Case:
    """Pictures with noise, and what the family makes of them and of their captions."""

    taught: Taught
    family: ModelFamily
    models: Mapping[str, nn.Module]
    pipeline: Any  # diffusers', for guesses
    rows: Sequence[Mapping[str, Tensor]]
    captions: Sequence[str]
    noise: Tensor

    @property
    def latents(self) -> Tensor:
        return torch.stack([row["latents"] for row in self.rows])

    def with_latents(self, latents: Tensor) -> Case:
        return replace(self, rows=[{**row, "latents": one} for row, one in zip(self.rows, latents, strict=True)])


@dataclass(frozen=True)
class Found:
    """The squared errors of each example, and the variance of what was to be predicted."""

    losses: Tensor  # (N,)
    variance: float

    @property
    def share(self) -> float:
        return float(self.losses.mean()) / self.variance


Guess = Callable[[Case, float], tuple[Tensor, Tensor]]
"""A case and its level -> the prediction and the target."""


def load_case(folder: Path, name: str, scenes: Sequence[Scene] = SCENES) -> Case:
    """Each scene with some noises; the encoders and the denoiser of the family, in float32."""
    family = load_family(recognize(folder))
    encoders = {name: encoder.float() for name, encoder in family.load_encoders(CPU).items()}  # as the pipeline's
    rows = []
    for scene in scenes:
        image = family.encode_image(encoders, pixels_of([picture(scene)])[0])
        rows += [{**image, **family.encode_caption(encoders, scene.caption)}] * DRAWS
    captions = [scene.caption for scene in scenes for _ in range(DRAWS)]
    noise = torch.randn(len(rows), *rows[0]["latents"].shape, generator=torch.Generator().manual_seed(4))
    models = family.load_models(trained=[], dtype=torch.float32, to=CPU)
    pipeline = load_pipeline(folder, FAMILIES[name])
    return Case(FAMILIES[name], family, models, pipeline, rows, captions, noise)


def ask(case: Case, level: float, *, as_level: Callable[[Tensor], Tensor] = lambda told: told) -> tuple[Tensor, Tensor]:
    """The prediction and the target as training has them, with the denoiser asked about another level."""
    noised = case.family.noise_process().add_noise(case.latents, case.noise, torch.full((len(case.rows),), level))
    answers = []
    for first in range(0, len(case.rows), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        conditioning = case.family.conditioning(case.models, case.family.collate(case.rows[part]))
        levels = as_level(noised.timesteps[part])
        with torch.no_grad():
            answers.append(case.family.predict(case.models, noised.noisy_latents[part], levels, conditioning))
    return torch.cat(answers), noised.target


def measured(case: Case, guess: Guess, levels: Sequence[float] = LEVELS) -> list[Found]:
    """What a guess costs at each level."""
    found = []
    for level in levels:
        prediction, target = guess(case, level)
        losses = (prediction.float() - target).square().flatten(1).mean(1)
        found.append(Found(losses, float(target.var())))
    return found
