"""Inputs of examples that tell how much they count in the loss: masks and factors. All have one, or none has."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lorasmith.data.cache import EncoderCache
from lorasmith.data.masks import loss_mask, mask_key
from lorasmith.data.types import LOSS_MASK, LOSS_WEIGHT, Example, Inputs, Size

MASKS = "masks"  # kind of files in the cache


def loss_weights(examples: Sequence[Example], of_regularisation: float) -> list[Inputs]:
    """The factor of each example's loss: that of regularisation examples, or 1; nothing where all are 1."""
    if of_regularisation == 1:
        return [{} for _ in examples]
    factors = {True: torch.tensor(of_regularisation), False: torch.tensor(1.0)}
    return [{LOSS_WEIGHT: factors[example.is_regularisation]} for example in examples]


def loss_masks(cache: EncoderCache, examples: Sequence[Example], latents: Sequence[Tensor]) -> list[Inputs]:
    """The mask of each example's loss, as large as its `latents`; nothing where no example has one.

    Raises:
        DatasetError: `dataset_problems`, a mask cannot be read or changed since the folder was scanned.
        ResourceError: the disk is full.
    """
    if all(example.mask is None for example in examples):
        return [{} for _ in examples]
    sizes = [_size(values) for values in latents]
    return [{LOSS_MASK: _mask(cache, example, size)} for example, size in zip(examples, sizes, strict=True)]


def loss_mask_of(example: Example, latents: Tensor) -> Inputs:
    """The mask of an example that is not in the cache, as its cut is that of a single use; nothing where it has none.

    Raises:
        BadFileError: the mask changed since the folder was scanned.
    """
    if example.mask is None:
        return {}
    return {LOSS_MASK: torch.tensor(loss_mask(example, example.mask, _size(latents)))}


def _size(latents: Tensor) -> Size:
    return Size(latents.shape[-1], latents.shape[-2])


def _mask(cache: EncoderCache, example: Example, size: Size) -> Tensor:
    if example.mask is None:
        return torch.ones(size.height, size.width)
    key = mask_key(example, example.mask, size)
    tensors = cache.load(MASKS, key)
    if tensors is None:
        tensors = {LOSS_MASK: torch.tensor(loss_mask(example, example.mask, size))}
        cache.store(MASKS, key, tensors)
    return tensors[LOSS_MASK]
