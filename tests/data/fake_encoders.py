"""Encoders that count what they are asked for."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorasmith.data.cache import EncodedBy, EncoderCache, encode_missing, find_missing, load_examples
from lorasmith.data.types import CachedExample, Example

HASHES = {"vae": "v1", "text_encoder": "t1"}


class Encoders:
    """Fakes that count, with numbers that depend on what they are given and on nothing else."""

    def __init__(self, hashes: Mapping[str, str] = HASHES, *, caches_text: bool = True) -> None:
        self.by = EncodedBy(hashes, clip_skip=1, caches_text=caches_text)
        self.pictures: list[tuple[int, ...]] = []
        self.captions: list[str] = []
        self.progress: list[tuple[int, int]] = []

    def encode_image(self, pixels: NDArray[np.float32]) -> Tensor:
        self.pictures.append(pixels.shape)
        return torch.from_numpy(pixels)[:, ::8, ::8].double()  # another type, to be stored as float32

    def encode_caption(self, caption: str) -> dict[str, Tensor]:
        self.captions.append(caption)
        embeds = torch.arange(12.0).reshape(3, 4) + len(caption)
        return {"prompt_embeds": embeds, "mask": torch.ones(3, dtype=torch.int64)}

    def fill(self, cache: EncoderCache, examples: tuple[Example, ...]) -> list[CachedExample]:
        encode_missing(
            find_missing(cache, examples, self.by),
            cache,
            encoded_by=self.by,
            encode_image=self.encode_image,
            encode_caption=self.encode_caption,
            progress=lambda done, total: self.progress.append((done, total)),
        )
        return load_examples(cache, examples, encoded_by=self.by)

    @property
    def counts(self) -> tuple[int, int]:
        return len(self.pictures), len(self.captions)
