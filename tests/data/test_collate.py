from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from lorasmith.data.collate import collate
from lorasmith.data.types import CachedExample


def cached(number: int, *, height: int = 2, tokens: bool = False) -> CachedExample:
    latents = torch.full((4, height, 3), float(number))
    text = {"embeds": torch.full((5, 6), number)}
    return CachedExample(latents, None, text) if tokens else CachedExample(latents, text, None)


def family_collates(conditionings: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {"by_family": torch.stack([one["embeds"] for one in conditionings])}


def test_conditioning_is_put_together_by_the_family() -> None:
    batch = collate([cached(number) for number in range(4)], (2, 0, 2), family_collates)
    assert batch.example_ids == (2, 0, 2)
    assert len(batch) == 3
    assert batch.latents.shape == (3, 4, 2, 3)
    assert batch.latents[:, 0, 0, 0].tolist() == [2, 0, 2]
    assert batch.conditioning is not None
    assert batch.conditioning["by_family"][:, 0, 0].tolist() == [2, 0, 2]
    assert batch.tokens is None


def test_tokens_are_stacked() -> None:
    batch = collate([cached(number, tokens=True) for number in range(3)], (1, 2), family_collates)
    assert batch.conditioning is None
    assert batch.tokens is not None
    assert batch.tokens["embeds"].shape == (2, 5, 6)
    assert batch.tokens["embeds"][:, 0, 0].tolist() == [1, 2]


def test_buckets_and_kinds_are_not_mixed() -> None:
    with pytest.raises(AssertionError):
        collate([cached(0), cached(1, height=3)], (0, 1), family_collates)
    with pytest.raises(AssertionError):
        collate([cached(0), cached(1, tokens=True)], (0, 1), family_collates)
