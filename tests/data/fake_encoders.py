"""Encoders that count what they are asked for."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorasmith.data.cache import CacheKeys, EncoderCache, Tensors
from lorasmith.data.encode import Encoded, Missing, encode_missing, read_cached
from lorasmith.data.types import Example

HASHES = {"text_encoder": "t1"}


class Encoders:
    """Fakes that count, with numbers that depend on their input and on nothing else."""

    def __init__(
        self,
        hashes: Mapping[str, str] = HASHES,
        *,
        vae: str = "v1",
        text_dtype: torch.dtype = torch.float32,
        cache_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.keys = CacheKeys(vae, hashes, {"clip_skip": 1}, cache_dtype)
        self.text_dtype = text_dtype
        self.pictures: list[tuple[int, ...]] = []
        self.captions: list[str] = []
        self.progress: list[tuple[int, int]] = []

    def encode_image(self, pixels: NDArray[np.float32]) -> dict[str, Tensor]:
        self.pictures.append(pixels.shape)
        return {"latents": torch.from_numpy(pixels)[:, ::8, ::8].double()}  # another type, to be stored as float32

    def encode_caption(self, caption: str) -> dict[str, Tensor]:
        self.captions.append(caption)
        embeds = torch.arange(12.0).reshape(3, 4) + len(caption)
        return {"prompt_embeds": embeds, "mask": torch.ones(3, dtype=torch.int64)}

    def missing(self, cache: EncoderCache, examples: tuple[Example, ...]) -> Missing:
        return read_cached(cache, examples, (), into=Encoded(self.keys, self.text_dtype))

    def fill(
        self,
        cache: EncoderCache,
        examples: tuple[Example, ...],
        *,
        captions: tuple[str, ...] = (),
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Tensors]:
        """Encodes what the cache lacks; the inputs of each example."""
        encoded = Encoded(self.keys, self.text_dtype)
        encode_missing(
            read_cached(cache, examples, captions, into=encoded),
            cache,
            into=encoded,
            encode_image=self.encode_image,
            encode_caption=self.encode_caption,
            progress=progress or (lambda done, total: self.progress.append((done, total))),
        )
        return [encoded.inputs_of(example) for example in examples]

    @property
    def counts(self) -> tuple[int, int]:
        return len(self.pictures), len(self.captions)
