"""Encodes pictures and captions: takes from the cache what it holds and encodes the rest.

Each picture and each caption is encoded alone, so that no result depends on what else was encoded. Knows no family:
the encoders are functions, called only for what is missing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorasmith.data.cache import IMAGES, TEXT, CacheKeys, EncoderCache, Tensors
from lorasmith.data.files import shown
from lorasmith.data.images import pixels
from lorasmith.data.types import Example
from lorasmith.errors import NonFiniteError
from lorasmith.finite import is_finite


@dataclass(frozen=True, slots=True)
class Missing:
    """Entries that the cache lacks, in the order of the examples: an example for each missing picture, and captions."""

    pictures: tuple[Example, ...]
    captions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pictures) + len(self.captions)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Encoded pictures and captions, in memory; equal pictures and captions share their tensors."""

    keys: CacheKeys
    text_dtype: (
        torch.dtype
    )  # the denoiser's, which converts captions to it anyway: they are kept in it where it is smaller
    images: dict[str, Tensors] = field(default_factory=dict)  # by key
    texts: dict[str, Tensors] = field(default_factory=dict)  # by caption

    def inputs_of(self, example: Example) -> Tensors:
        """The picture's tensors and, where text is cached, the caption's."""
        return {**self.images[self.keys.latents_key(example)], **self.texts.get(example.caption, {})}

    def add_text(self, caption: str, tensors: Mapping[str, Tensor]) -> None:
        self.texts[caption] = self.kept_text(tensors)

    def kept_text(self, tensors: Mapping[str, Tensor]) -> Tensors:
        """The tensors of a caption as they are kept in memory."""
        dtype = self.text_dtype
        return {name: value.to(dtype) if _is_larger(value, dtype) else value for name, value in tensors.items()}


def _is_larger(value: Tensor, dtype: torch.dtype) -> bool:
    return value.is_floating_point() and value.element_size() > dtype.itemsize


def read_cached(cache: EncoderCache, examples: Sequence[Example], captions: Iterable[str], *, into: Encoded) -> Missing:
    """Reads what the cache holds of the examples, and of captions besides, each file once; the rest is missing."""
    keys = into.keys
    pictures: dict[str, Example] = {}
    for example in examples:
        pictures.setdefault(keys.latents_key(example), example)
    for key in pictures:
        tensors = cache.load(IMAGES, key)
        if tensors is not None:
            into.images[key] = tensors
    wanted = dict.fromkeys([*(example.caption for example in examples), *captions]) if keys.caches_text else {}
    for caption in wanted:
        tensors = cache.load(TEXT, keys.text_key(caption))
        if tensors is not None:
            into.add_text(caption, tensors)
    return Missing(
        pictures=tuple(example for key, example in pictures.items() if key not in into.images),
        captions=tuple(caption for caption in wanted if caption not in into.texts),
    )


def encode_missing(
    missing: Missing,
    cache: EncoderCache,
    *,
    into: Encoded,
    encode_image: Callable[[NDArray[np.float32]], Mapping[str, Tensor]],
    encode_caption: Callable[[str], Mapping[str, Tensor]],
    progress: Callable[[int, int], None],
) -> None:
    """Encodes a picture or a caption at a time and stores each before the next, so that finished work stays finished.

    `encode_image` takes (3, H, W) in [-1, 1]; both functions give tensors without a batch dimension, whose floating
    point numbers are stored in the type of the keys. `progress(done, total)` is called after each.

    Raises:
        DatasetError: `dataset_problems`, a picture cannot be decoded or changed since the folder was scanned.
        NonFiniteError: `encoded_not_finite`, an encoder gave infinities or NaN; nothing of it is stored.
        ResourceError: the disk is full.
    """
    keys = into.keys
    for done, example in enumerate(missing.pictures, start=1):
        tensors = storable(encode_image(pixels(example)), keys.dtype, source=shown(example.image))
        key = keys.latents_key(example)
        cache.store(IMAGES, key, tensors)
        into.images[key] = tensors
        progress(done, len(missing))
    for done, caption in enumerate(missing.captions, start=len(missing.pictures) + 1):
        tensors = storable(encode_caption(caption), keys.dtype, source=caption)
        cache.store(TEXT, keys.text_key(caption), tensors)
        into.add_text(caption, tensors)
        progress(done, len(missing))


def storable(encoded: Mapping[str, Tensor], dtype: torch.dtype, *, source: str) -> Tensors:
    """The outputs of an encoder as the cache stores them.

    Raises:
        NonFiniteError: `encoded_not_finite`.
    """
    tensors = {
        name: value.detach().to("cpu", dtype if _is_larger(value, dtype) else value.dtype)
        for name, value in encoded.items()
    }
    if not all(map(is_finite, tensors.values())):
        raise NonFiniteError("encoded_not_finite", what=source)
    return tensors
