"""Rotations in real numbers against those of diffusers in complex numbers."""

from typing import Any

import torch
from diffusers import ZImageTransformer2DModel

from lorasmith.families.zimage.attention import PositionTables, RotatedAttention, rotated
from tests.families.qwen_miniature import fill
from tests.families.zimage.miniature import DENOISER


def test_a_block_is_that_of_the_model() -> None:
    """With and without a mask; positions are no weights."""
    model: Any = ZImageTransformer2DModel(**DENOISER)
    fill(model)
    block, tables = model.layers[0], PositionTables(model.rope_embedder)
    assert tables.state_dict() == {}
    generator = torch.Generator().manual_seed(1)
    tokens, adjusted = (torch.randn(shape, generator=generator) for shape in ((2, 5, 32), (2, 32)))
    positions = torch.randint(100, (5, 3), generator=generator)
    waves, real = model.rope_embedder(positions).expand(2, -1, -1), tables(positions).expand(2, -1, -1, -1)
    for mask in (None, torch.arange(5) < torch.tensor([[5], [3]])):
        with torch.no_grad():
            expected = block(tokens, mask, waves, adjusted)
            own = block.attention.processor
            block.attention.set_processor(RotatedAttention())
            found = block(tokens, mask, real, adjusted)
            block.attention.set_processor(own)
        assert torch.allclose(found, expected, atol=1e-5)


def test_rotations_are_made_in_float32() -> None:
    vectors = torch.randn(1, 3, 2, 8, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(2))
    waves = torch.randn(1, 3, 4, 2, generator=torch.Generator().manual_seed(3))
    found = rotated(vectors, waves)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, rotated(vectors.float(), waves).to(torch.bfloat16))
