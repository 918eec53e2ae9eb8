"""Turns examples and captions into inputs of a model: encodes once, and keeps no encoder loaded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lorasmith.data.augmentation import Variant, tinted
from lorasmith.data.cache import CacheKeys, EncoderCache
from lorasmith.data.encode import Encoded, Missing, encode_missing, read_cached, storable
from lorasmith.data.files import shown
from lorasmith.data.images import pixels
from lorasmith.data.loss_inputs import loss_mask_of, loss_masks, loss_weights
from lorasmith.data.types import LATENTS, CachedExample, Example, Inputs
from lorasmith.engine.device import Device
from lorasmith.engine.stored import FrozenStore
from lorasmith.families.base import ModelFamily

LIVE_KEPT = 64  # captions encoded live that stay in memory: a step that is repeated needs them again


@dataclass(frozen=True, slots=True)
class Encoding:
    """By what pictures and captions are encoded, and where the results are kept."""

    family: ModelFamily
    cache: EncoderCache
    trained: Collection[str]  # the text encoders that are trained: they get tokens at every step
    dtype: torch.dtype  # of the denoiser
    device: Device
    tile: int = 0  # pixels on a side of the tiles in which larger pictures are encoded; 0: whole
    text_form: str = "auto"  # of CODECS: how the weights of text encoders are kept

    @property
    def keys(self) -> CacheKeys:
        """The keys of what is made."""
        return cache_keys(self.family, trained=self.trained, tile=self.tile, text_form=self.text_form)

    def load_encoders(self, names: Collection[str]) -> dict[str, nn.Module]:
        """The encoders on the device. Text encoders in another form go there as they are read: no memory ever holds the
        whole."""
        where = self.device.torch_device
        if self.text_form == "auto" or names == ("vae",):
            return self.family.load_encoders(where, only=names)
        store = partial(FrozenStore, form=self.text_form, device=where)
        loaded = self.family.load_encoders(store, only=names)
        self.device.release_memory()
        return loaded


def cache_keys(family: ModelFamily, *, trained: Collection[str], tile: int = 0, text_form: str = "auto") -> CacheKeys:
    """The keys of what the encoders that are not trained make."""
    hashes, form = family.encoder_hashes(), "" if text_form == "auto" else f" {text_form}"
    frozen = {name: hashes[name] + form for name in family.traits.text_encoders if name not in trained}
    return CacheKeys(hashes["vae"], frozen, family.text.identity(), family.traits.cache_dtype, tile)


def encoded_examples(
    encoding: Encoding,
    examples: Sequence[Example],
    captions: Sequence[str] = (),
    *,
    regularisation_weight: float = 1.0,
    damaged: Callable[[Path], None],
    progress: Callable[[int, int], None],
) -> tuple[list[CachedExample], dict[str, Inputs]]:
    """The inputs of each example, in order, and of captions besides.

    The encoders are loaded only where the cache lacks something, and are gone when this returns. `damaged(path)` is
    called for each file of the cache that was set aside, `progress(done, total)` before the encoding and after each
    picture and caption.

    Args:
        regularisation_weight: the factor of the loss of regularisation examples; 1: no example gets a factor.

    Raises:
        DatasetError, NonFiniteError, ResourceError: as `data.encode.encode_missing`.
    """
    family, trained = encoding.family, encoding.trained
    encoded = Encoded(encoding.keys, encoding.dtype)
    missing = read_cached(encoding.cache, examples, captions, into=encoded)
    for path in encoding.cache.set_aside:
        damaged(path)
    already = len(encoding.cache.set_aside)
    if len(missing):
        progress(0, len(missing))
        _encode(encoding, missing, encoded, progress)
        encoding.device.release_memory()

    @cache
    def tokens(caption: str) -> Inputs:
        return family.tokenize(caption) if trained else {}

    of_pictures = [encoded.inputs_of(example) for example in examples]
    weights = loss_weights(examples, regularisation_weight)
    masks = loss_masks(encoding.cache, examples, [inputs[LATENTS] for inputs in of_pictures])
    for path in encoding.cache.set_aside[already:]:
        damaged(path)
    inputs = [
        CachedExample({**of_picture, **tokens(example.caption), **family.example_inputs(example), **weight, **mask})
        for example, of_picture, weight, mask in zip(examples, of_pictures, weights, masks, strict=True)
    ]
    return inputs, {caption: {**encoded.texts.get(caption, {}), **tokens(caption)} for caption in captions}


def live_captions(encoding: Encoding) -> Callable[[str], Inputs]:
    """Loads the frozen text encoders, to stay, and returns a function that gives the inputs of any caption: the same
    bits as `encoded_examples` does."""
    family, keys = encoding.family, encoding.keys
    encoded = Encoded(keys, encoding.dtype)
    encoders = encoding.load_encoders(tuple(keys.text_encoders)) if keys.caches_text else {}

    @lru_cache(maxsize=LIVE_KEPT)
    def inputs(caption: str) -> Inputs:
        tensors = storable(family.encode_caption(encoders, caption), keys.dtype, source=caption) if encoders else {}
        tokens = family.tokenize(caption) if encoding.trained else {}
        return {**encoded.kept_text(tensors), **tokens}

    return inputs


def live_pictures(encoding: Encoding) -> Callable[[Variant], Inputs]:
    """Loads the VAE, to stay, and returns a function that gives the inputs of any variant of a picture: the same bits
    as `encoded_examples` does.

    The function raises BadFileError where a picture changed since the folder was scanned.
    """
    family, device = encoding.family, encoding.device.torch_device
    dtype = cache_keys(family, trained=encoding.trained).dtype
    encoders = family.load_encoders(device, only=("vae",))

    def inputs(variant: Variant) -> Inputs:
        example = variant.example
        values = torch.from_numpy(tinted(pixels(example), variant.tint)).to(device)
        encoded = storable(
            family.encode_image(encoders, values, tile=encoding.tile), dtype, source=shown(example.image)
        )
        return {**encoded, **loss_mask_of(example, encoded[LATENTS]), **family.example_inputs(example)}

    return inputs


def _encode(encoding: Encoding, missing: Missing, encoded: Encoded, progress: Callable[[int, int], None]) -> None:
    """Loads the VAE for the pictures, then the text encoders for the captions: they never share the memory."""
    family, device = encoding.family, encoding.device.torch_device
    loaded: dict[str, nn.Module] = {}

    def encoders(*names: str) -> dict[str, nn.Module]:
        if not loaded.keys() >= set(names):
            loaded.clear()
            encoding.device.release_memory()
            loaded.update(encoding.load_encoders(names))
        return loaded

    def encode_image(pixels: NDArray[np.float32]) -> dict[str, Tensor]:
        values = torch.from_numpy(pixels).to(device)
        return family.encode_image(encoders("vae"), values, tile=encoding.tile)

    def encode_caption(caption: str) -> dict[str, Tensor]:
        return family.encode_caption(encoders(*encoded.keys.text_encoders), caption)

    encode_missing(
        missing,
        encoding.cache,
        into=encoded,
        encode_image=encode_image,
        encode_caption=encode_caption,
        progress=progress,
    )
