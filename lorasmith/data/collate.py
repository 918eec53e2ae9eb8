"""Cached examples of one bucket become a batch. Knows nothing of order: it is told which."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lorasmith.data.types import Batch, CachedExample

CollateConditioning = Callable[[Sequence[Mapping[str, Tensor]]], dict[str, Tensor]]


def collate(
    cached: Sequence[CachedExample], example_ids: Sequence[int], collate_conditioning: CollateConditioning
) -> Batch:
    """The examples `example_ids` of `cached`, in that order, an id as often as it is named.

    Conditioning is put together by the family; tokens, of one length always, are stacked. All must be of one bucket,
    and all have conditioning or all have tokens.
    """
    chosen = [cached[one] for one in example_ids]
    assert len({one.latents.shape for one in chosen}) == 1, "a batch holds one bucket"
    conditionings = [one.conditioning for one in chosen if one.conditioning is not None]
    tokens = [one.tokens for one in chosen if one.tokens is not None]
    assert sorted([len(conditionings), len(tokens)]) == [0, len(chosen)], "either conditioning or tokens"
    return Batch(
        latents=torch.stack([one.latents for one in chosen]),
        conditioning=collate_conditioning(conditionings) if conditionings else None,
        tokens={name: torch.stack([one[name] for one in tokens]) for name in tokens[0]} if tokens else None,
        example_ids=tuple(example_ids),
    )
