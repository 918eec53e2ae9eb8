"""From the pictures of a run to its micro-batches: encode once, drop the encoders, hand out by number."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorasmith.data.cache import (
    TEXT,
    EncodedBy,
    EncoderCache,
    HoldingCache,
    Missing,
    encode_missing,
    find_missing,
    load_examples,
)
from lorasmith.data.collate import collate
from lorasmith.data.order import Order
from lorasmith.data.types import Batch, CachedExample, Example
from lorasmith.engine.device import Device
from lorasmith.engine.state import TrainState
from lorasmith.errors import StopRequested, TrainerError
from lorasmith.families.base import ModelFamily
from lorasmith.runs.events import CacheProgress, Event, Warned
from lorasmith.runs.ledger import Ledger
from lorasmith.runs.process_files import HeartbeatWriter, StopFlag


@dataclass(frozen=True, slots=True)
class StartupContext:
    """Whom the work before the first step reports to, and who may end it."""

    ledger: Ledger
    heart: HeartbeatWriter
    stop: StopFlag
    attempt: int

    def event(self, event: Event) -> None:
        self.ledger.append(event)

    def warn(self, code: str, **fields: Any) -> None:
        self.event(Warned(attempt=self.attempt, time=time.time(), code=code, fields=fields))

    def beat(self, phase: str) -> None:
        """A sign of life; here a stop request takes effect.

        Raises:
            StopRequested: nothing was begun yet, so there is nothing to save.
        """
        self.heart.beat(0, phase)
        if self.stop.requested():
            raise StopRequested("stopped_before_start")

    def close(self) -> None:
        """Lets go of the staging folder's files, which can then be moved on any system. Can be called again."""
        self.ledger.close()
        self.heart.close()

    def cached(self, done: int, total: int) -> None:
        self.event(CacheProgress(attempt=self.attempt, time=time.time(), done=done, total=total))
        self.beat("caching")


@dataclass(frozen=True, slots=True)
class CachedText:
    """What the text encoders made of a caption, without a batch dimension; tokens where one of them is trained."""

    conditioning: dict[str, Tensor] | None
    tokens: dict[str, Tensor] | None


@dataclass(frozen=True, slots=True)
class Encoding:
    """By what pictures and captions are encoded, and where the results are kept."""

    family: ModelFamily
    folder: Path
    clip_skip: int
    trains_text: bool
    precision: torch.dtype  # of the denoiser, in which text embeddings are held
    device: Device

    @property
    def by(self) -> EncodedBy:
        return EncodedBy(self.family.encoder_hashes(), self.clip_skip, caches_text=not self.trains_text)


def cached_examples(
    encoding: Encoding, examples: Sequence[Example], captions: Sequence[str] = (), *, startup: StartupContext
) -> tuple[list[CachedExample], dict[str, CachedText]]:
    """What the encoders make of each example, and of captions besides, from the cache; the encoders are loaded only
    where something lacks, one after the other, and are gone when this returns."""
    encoded_by = encoding.by
    text_held = partial(encoding.family.conditioning_in, precision=encoding.precision)
    cache = HoldingCache(encoding.folder, text_held=text_held)
    missing = find_missing(cache, examples, encoded_by)
    if encoded_by.caches_text:
        more = [one for one in dict.fromkeys(captions) if one not in missing.captions]
        lacking = tuple(one for one in more if cache.load(TEXT, encoded_by.text_key(one)) is None)
        missing = Missing(missing.pictures, missing.captions + lacking)
    for path in cache.set_aside:
        startup.warn("cache_damaged", path=str(path))
    if len(missing):
        startup.cached(0, len(missing))
        _encode(encoding.family, missing, cache, encoded_by=encoded_by, device=encoding.device, startup=startup)
        encoding.device.release_memory()
    tokenize = _tokenizer(encoding.family) if encoding.trains_text else None
    found = load_examples(cache, examples, encoded_by=encoded_by, tokenize=tokenize)
    return found, {caption: _text(cache, caption, encoded_by, tokenize) for caption in captions}


def _text(
    cache: EncoderCache, caption: str, encoded_by: EncodedBy, tokenize: Callable[[str], dict[str, Tensor]] | None
) -> CachedText:
    if tokenize is not None:
        return CachedText(None, tokenize(caption))
    key = encoded_by.text_key(caption)
    stored = cache.load(TEXT, key)
    if stored is None:  # it was there a moment ago
        raise TrainerError("cache_lost", path=str(cache.path(TEXT, key)))
    return CachedText(stored, None)


def _encode(
    family: ModelFamily,
    missing: Missing,
    cache: EncoderCache,
    *,
    encoded_by: EncodedBy,
    device: Device,
    startup: StartupContext,
) -> None:
    encoders = family.load_encoders(clip_skip=encoded_by.clip_skip, where=device.torch_device)

    def encode_image(pixels: NDArray[np.float32]) -> Tensor:
        batch = torch.from_numpy(pixels).unsqueeze(0).to(device.torch_device)
        with torch.no_grad():
            return family.encode_images(encoders, batch)[0]

    def encode_caption(caption: str) -> dict[str, Tensor]:
        with torch.no_grad():
            return {name: value[0] for name, value in family.encode_captions(encoders, [caption]).items()}

    encode_missing(
        missing,
        cache,
        encoded_by=encoded_by,
        encode_image=encode_image,
        encode_caption=encode_caption,
        progress=startup.cached,
    )


def _tokenizer(family: ModelFamily) -> Callable[[str], dict[str, Tensor]]:
    def tokenize(caption: str) -> dict[str, Tensor]:
        return {name: value[0] for name, value in family.tokenize([caption]).items()}

    return tokenize


@dataclass(frozen=True, slots=True)
class RunBatches:
    """The micro-batches of a run: a function of (step, micro), no cursor."""

    order: Order
    cached: Sequence[CachedExample]
    family: ModelFamily
    accumulation_steps: int
    state: TrainState  # for its origin alone

    def position(self, step: int, micro: int) -> int:
        """Micro-batches since the origin; the first is 0."""
        return (step - 1 - self.state.origin.step) * self.accumulation_steps + micro

    def at(self, step: int, micro: int) -> tuple[int, Batch]:
        epoch, ids = self.order.batch_at(self.position(step, micro), self.state.origin.epoch)
        return epoch, collate(self.cached, ids, self.family.collate_conditioning)

    def examples_in(self, step: int) -> int:
        """How many examples the micro-batches of a step hold together."""
        epoch = self.state.origin.epoch
        return sum(
            len(self.order.batch_at(self.position(step, micro), epoch)[1]) for micro in range(self.accumulation_steps)
        )

    def epoch_of(self, step: int) -> int:
        """The epoch of the last micro-batch of a completed step; the first epoch before the first step."""
        if step <= self.state.origin.step:
            return self.state.origin.epoch
        return self.order.epoch_at(self.position(step, self.accumulation_steps - 1), self.state.origin.epoch)
