"""The denoiser for a batch in tensors of fixed shapes, against the model class, which takes lists."""

from typing import Any

import pytest
import torch
from diffusers import ZImageTransformer2DModel

from lorasmith.families.zimage.denoiser import forward, patched, unpatched
from tests.families.qwen_miniature import fill
from tests.families.zimage.miniature import DENOISER


@pytest.fixture(scope="module")
def denoiser() -> Any:
    model = ZImageTransformer2DModel(**DENOISER)
    fill(model)
    return model.eval()


def test_patches_are_laid_out_as_the_model_lays_them_out(denoiser: Any) -> None:
    latents = torch.randn(2, 4, 6, 8)
    expected, _, _ = denoiser._patchify_image(latents[1].unsqueeze(1), 2, 1)
    assert torch.equal(patched(latents)[1], expected)
    assert torch.equal(unpatched(patched(latents), 3, 4), latents)


@pytest.mark.parametrize("lengths", [(32, 64, 33), (5,), (64, 64)])
@torch.no_grad()
def test_it_is_the_forward_pass_of_the_model(denoiser: Any, lengths: tuple[int, ...]) -> None:
    """Whatever stands in the padding; texts that fill their tokens, and texts that do not."""
    count = len(lengths)
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(count, 4, 6, 10, generator=generator)
    times = torch.rand(count, generator=generator)
    longest = -(-max(lengths) // 32) * 32
    texts = torch.randn(count, longest, 24, generator=generator)
    is_text = torch.arange(longest) < torch.tensor(lengths)[:, None]
    found = forward(denoiser, latents, times, texts, is_text)
    lists = [text[:length] for text, length in zip(texts, lengths, strict=True)]
    expected = torch.stack(denoiser(list(latents.unsqueeze(2)), times, lists, return_dict=False)[0]).squeeze(2)
    assert torch.allclose(found, expected, atol=1e-5, rtol=1e-5)
