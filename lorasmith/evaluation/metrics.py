"""Distances of samples from the pictures they were made for, and the training picture that each is most like.

A measure that cannot be taken is None, with a code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorasmith.data.types import Example
from lorasmith.engine.device import is_out_of_memory
from lorasmith.errors import DatasetError, ModelError
from lorasmith.evaluation.choose import picture_of
from lorasmith.evaluation.samples import Sample
from lorasmith.metrics.clip import ImageEncoder, embeddings, semantic_losses
from lorasmith.metrics.color import color_losses
from lorasmith.metrics.ssim import ssim_losses

MAX_COMPARED_EACH_TIME = 64
"""Number of training pictures up to which the most similar is searched at every evaluation; else only at the last."""
NO_CLIP_MODEL, CLIP_FAILED = "no_clip_model", "clip_failed"
NOT_FINITE, OUT_OF_MEMORY, PICTURE_CHANGED = "not_finite", "out_of_memory", "picture_changed"


@dataclass(slots=True)
class PictureScores:
    """The scores of samples, an entry for each in order."""

    visual: list[float | None]
    semantic: list[float | None]
    color: list[float | None]
    nearest: list[tuple[Path, float] | None]
    unavailable: dict[str, str] = field(default_factory=dict)  # measure -> code

    def mean(self, measure: str, samples: Sequence[Sample]) -> float | None:
        """Mean over the samples that have an original; None unless all of them were measured, so that the means of all
        evaluations are of the same pictures."""
        values: list[float | None] = getattr(self, measure)
        compared = [value for value, sample in zip(values, samples, strict=True) if sample.spec.original is not None]
        known = [value for value in compared if value is not None]
        return math.fsum(known) / len(known) if known and len(known) == len(compared) else None


@dataclass(slots=True)
class PictureMetrics:
    """Compares samples with pictures. Keeps the embeddings of pictures that stay the same; the CLIP model itself is
    loaded and dropped each time.

    `problem` is the code of the reason why there is no CLIP; a model that fails once is not tried again.
    """

    clip: Path | None
    load: Callable[[str], ImageEncoder]
    trained: tuple[Example, ...]
    problem: str = NO_CLIP_MODEL
    failure: ModelError | None = None  # not reported yet
    _originals: dict[str, Tensor] = field(default_factory=dict)  # by SHA-256
    _training: Tensor | None = None  # (trained, D)

    def measure(self, samples: Sequence[Sample], *, is_end: bool, alive: Callable[[], None]) -> PictureScores:
        """Measures all samples. `alive` is called at each picture."""
        blank: list[float | None] = [None] * len(samples)
        measured = PictureScores([*blank], [*blank], [*blank], [None] * len(samples))
        if not samples:
            return measured
        for number, sample in enumerate(samples):
            original = sample.spec.pixels
            if original is None:
                continue
            alive()
            if not sample.is_finite:
                measured.unavailable |= dict.fromkeys(("visual", "color", "semantic"), NOT_FINITE)
                continue
            (measured.visual[number],) = ssim_losses(sample.picture[None], original[None])
            (color,) = color_losses(sample.picture[None], original[None])
            if math.isfinite(color):
                measured.color[number] = color
            else:
                measured.unavailable["color"] = NOT_FINITE
        self._compare(samples, measured, is_end=is_end, alive=alive)
        return measured

    def _compare(
        self, samples: Sequence[Sample], measured: PictureScores, *, is_end: bool, alive: Callable[[], None]
    ) -> None:
        """Adds the measures that need CLIP."""
        what = "semantic"
        try:
            encoder = self._encoder()
            if encoder is None:
                measured.unavailable["semantic"] = self.problem
                return
            rows = _embedded(encoder, [sample.picture for sample in samples], alive)
            self._semantic(encoder, samples, rows, measured, alive=alive)
            what = "nearest"
            if is_end or len(self.trained) <= MAX_COMPARED_EACH_TIME:
                self._nearest(encoder, samples, rows, measured, alive=alive)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            measured.unavailable[what] = OUT_OF_MEMORY

    def _semantic(
        self,
        encoder: ImageEncoder,
        samples: Sequence[Sample],
        rows: Tensor,
        measured: PictureScores,
        *,
        alive: Callable[[], None],
    ) -> None:
        for number, (sample, row) in enumerate(zip(samples, rows, strict=True)):
            original = sample.spec.original
            if original is None or sample.spec.pixels is None or not sample.is_finite:
                continue
            key = original.image_sha256
            if key not in self._originals:
                self._originals[key] = _embedded(encoder, [sample.spec.pixels], alive)[0]
            (loss,) = semantic_losses(row[None], self._originals[key][None])
            if math.isfinite(loss):
                measured.semantic[number] = loss
            else:
                measured.unavailable["semantic"] = NOT_FINITE

    def _nearest(
        self,
        encoder: ImageEncoder,
        samples: Sequence[Sample],
        rows: Tensor,
        measured: PictureScores,
        *,
        alive: Callable[[], None],
    ) -> None:
        if self._training is None:
            try:
                rows_of = [_embedded(encoder, [picture_of(example)], alive) for example in self.trained]
                self._training = torch.cat(rows_of)
            except (DatasetError, OSError):  # a picture has changed: then no nearest picture is named
                measured.unavailable["nearest"] = PICTURE_CHANGED
                return
        similarity, place = (rows @ self._training.T).max(dim=1)
        for number, sample in enumerate(samples):
            if sample.is_finite and math.isfinite(float(similarity[number])):
                measured.nearest[number] = (self.trained[int(place[number])].image, float(similarity[number]))

    def _encoder(self) -> ImageEncoder | None:
        if self.clip is None:
            return None
        try:
            return self.load(str(self.clip))
        except ModelError as error:
            self.failed(error)
            return None

    def failed(self, error: ModelError) -> None:
        """Records that CLIP is not available from here on."""
        self.clip, self.problem, self.failure = None, CLIP_FAILED, error


def _embedded(encoder: ImageEncoder, pictures: Sequence[NDArray[np.uint8]], alive: Callable[[], None]) -> Tensor:
    rows = []
    for picture in pictures:
        alive()
        rows.append(embeddings(encoder, [picture]))
    return torch.cat(rows)
