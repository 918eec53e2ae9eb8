"""Chooses the examples and the noise that a run is measured on: a function of pictures, seed and settings.

Knows no model and no file of the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lorasmith.config.sample_prompts import sample_prompt
from lorasmith.config.sections import EvaluationConfig
from lorasmith.data.images import pixels
from lorasmith.data.order import is_main_subject
from lorasmith.data.types import LATENTS, LOSS_MASK, LOSS_WEIGHT, CachedExample, Example, Inputs, Offset, Size
from lorasmith.evaluation.limits import MAX_VALIDATED
from lorasmith.seeding import fold

IDENTITY_LETTERS = 16
EMPTY_CAPTION = ""
"""The caption of the unconditional prediction in classifier-free guidance."""
SEEDS = 1 << 32
"""Seeds of samples are below it, as the WebUI's are."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The chosen examples, before they are encoded."""

    validated: tuple[Example, ...]
    sampled: tuple[Example, ...]
    is_held_out: bool  # of the validated examples; False: they are trained on

    @property
    def all(self) -> tuple[Example, ...]:
        """Every chosen example once."""
        return tuple(dict.fromkeys((*self.validated, *self.sampled)))


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """A picture to be generated: only the adapter differs between evaluations."""

    name: str  # of its file, without suffix
    prompt: str
    seed: int
    denoising_strength: float
    inputs: Inputs  # of the caption and the picture's geometry, without latents
    original: Example | None  # the example that it starts from and is compared with; None for a prompt alone
    latents_shape: tuple[int, ...]  # (C, h, w)
    latents: Tensor | None  # of the original
    pixels: NDArray[np.uint8] | None  # (H, W, 3), the original as it is trained on
    negative: Inputs | None = None  # of another caption than the empty caption, for guidance
    steps: int | None = None  # of the sampler; None: the family's
    guidance: float | None = None
    embedded: float | None = None  # of a denoiser that takes it as an input; None: as `guidance`


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """The examples and samples of every evaluation, encoded."""

    validated: tuple[tuple[Example, CachedExample], ...]
    is_held_out: bool
    specs: tuple[SampleSpec, ...]
    empty_caption: Inputs
    objective: str = ""  # identity of the loss that is measured; "": the plain mean squared error

    @property
    def pictures(self) -> str:
        """The identity of the pictures that the validation loss is measured on, and of a loss that is not the plain
        one."""
        identity = pictures_identity([example for example, _ in self.validated])
        return _digest(identity, self.objective) if self.objective else identity


NOTHING_CHOSEN = Chosen((), (), False)


def pictures_identity(examples: Sequence[Example]) -> str:
    """Identity of the pictures of a validation loss, by their bytes: losses are comparable where it is the same."""
    hashes = sorted(example.image_sha256 for example in examples)
    return _digest(*hashes)


def choose(
    trained: Sequence[Example], held_out: Sequence[Example], *, count: int, seed: int, holds_out: bool = False
) -> Chosen:
    """Chooses `count` examples for samples, held-out examples first, then those of the main subject; and examples for
    the validation loss: up to MAX_VALIDATED held-out examples, or the samples' examples where none are held out.

    Their order is drawn from the pictures' bytes, so it does not follow folders and stays the same when pictures are
    added. Where a run that `holds_out` pictures has none of them left, none are validated: trained pictures are no
    substitute.
    """
    apart = _drawn(held_out, seed)
    sampled = (apart + _drawn(trained, seed))[:count]
    validated = apart[:MAX_VALIDATED] or ([] if holds_out else sampled)
    return Chosen(tuple(validated), tuple(sampled), bool(apart) or holds_out)


def _drawn(examples: Sequence[Example], seed: int) -> list[Example]:
    """Distinct pictures in the drawn order; the main subject before regularisation pictures."""
    is_main = is_main_subject([0 if example.is_regularisation else example.repeats for example in examples])
    ranks = [
        (not is_first, fold(seed, "evaluated", example.image_sha256))
        for example, is_first in zip(examples, is_main, strict=True)
    ]
    distinct: dict[str, Example] = {}
    for number in sorted(range(len(examples)), key=ranks.__getitem__):
        distinct.setdefault(examples[number].image_sha256, examples[number])
    return list(distinct.values())


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:IDENTITY_LETTERS]


class Sides(NamedTuple):
    """Sides of prompts' pictures, in pixels."""

    usual: int  # of prompts that name none
    multiple: int = 1  # of which the model needs multiples

    def of(self, asked: int | None) -> int:
        """The side of a picture whose prompt names `asked`, rounded down; None: it names none."""
        return max(self.multiple, (asked or self.usual) // self.multiple * self.multiple)


def evaluation_set(
    chosen: Chosen,
    cached: Mapping[Example, CachedExample],
    texts: Mapping[str, Inputs],
    example_inputs: Callable[[Example], Inputs],
    *,
    settings: EvaluationConfig,
    sides: Sides,
    seed: int,
) -> EvaluationSet:
    """The chosen examples and the sample prompts with their inputs. `cached` holds `chosen.all`, `texts` the empty
    caption and the prompts.

    Raises:
        BadFileError: a picture changed since the folder was scanned.
    """
    specs = []
    for number, example in enumerate(chosen.sampled, start=1):
        latents = cached[example].latents
        of_loss = (LATENTS, LOSS_MASK, LOSS_WEIGHT)
        inputs = {name: value for name, value in cached[example].inputs.items() if name not in of_loss}
        specs.append(
            SampleSpec(
                name=f"example-{number:02d}",
                prompt=example.caption,
                seed=fold(seed, "sample", example.image_sha256) % SEEDS,
                denoising_strength=settings.strength,
                inputs=inputs,
                original=example,
                latents_shape=tuple(latents.shape),
                latents=latents,
                pixels=picture_of(example),
            )
        )
    if settings.sample_prompts and specs:
        like = chosen.sampled[0], specs[0].latents_shape
        specs += [
            _of_prompt(number, line, texts, example_inputs, like=like, sides=sides, seed=seed)
            for number, line in enumerate(settings.sample_prompts, start=1)
        ]
    validated = tuple((example, cached[example]) for example in chosen.validated)
    return EvaluationSet(validated, chosen.is_held_out, tuple(specs), texts[EMPTY_CAPTION])


def texts_of(settings: EvaluationConfig) -> list[str]:
    """The captions of sample prompts, and the empty caption."""
    prompts = [sample_prompt(line) for line in settings.sample_prompts]
    return list(
        dict.fromkeys([EMPTY_CAPTION, *(text for prompt in prompts for text in (prompt.text, prompt.negative))])
    )


def _of_prompt(
    number: int,
    line: str,
    texts: Mapping[str, Inputs],
    example_inputs: Callable[[Example], Inputs],
    *,
    like: tuple[Example, tuple[int, ...]],
    sides: Sides,
    seed: int,
) -> SampleSpec:
    """The sample of a prompt. `like` is an example and the shape of its latents, which depends on the model."""
    prompt, (example, shape) = sample_prompt(line), like
    plain = _square(example, Size(sides.of(prompt.width), sides.of(prompt.height)))
    return SampleSpec(
        name=f"prompt-{number:02d}",
        prompt=line,
        seed=fold(seed, "sample prompt", number, line) % SEEDS if prompt.seed is None else prompt.seed,
        denoising_strength=1.0,
        inputs={**texts[prompt.text], **example_inputs(replace(plain, caption=prompt.text))},
        original=None,
        latents_shape=_latents_shape(plain.bucket, example.bucket, shape),
        latents=None,
        pixels=None,
        negative=texts[prompt.negative] if prompt.negative else None,
        steps=prompt.steps,
        guidance=prompt.guidance,
        embedded=prompt.embedded,
    )


def _square(example: Example, size: Size) -> Example:
    """An example as if its picture had been of that size and were not cut: the geometry of a prompt's picture."""
    return replace(example, original=size, resized=size, bucket=size, crop=Offset(0, 0))


def _latents_shape(wanted: Size, bucket: Size, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the latents of a picture of the wanted size, from the shape that belongs to a bucket."""
    factor = bucket.width // shape[-1]
    return (*shape[:-2], wanted.height // factor, wanted.width // factor)


def picture_of(example: Example) -> NDArray[np.uint8]:
    """(H, W, 3): the picture, cut as for training.

    Raises:
        BadFileError: the file changed since the folder was scanned.
    """
    return to_bytes(pixels(example))


def to_bytes(pixels_of_one: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(3, H, W) in about [-1, 1] -> (H, W, 3) in 0..255. NaN becomes black."""
    scaled = np.nan_to_num((pixels_of_one.transpose(1, 2, 0) + 1.0) * 127.5, nan=0.0, posinf=255.0, neginf=0.0)
    return np.ascontiguousarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))
