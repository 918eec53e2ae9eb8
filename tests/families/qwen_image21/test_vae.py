"""The VAE of four channels: pictures are opaque, and what it decodes is put on white."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lorasmith.families.qwen_image21.vae import decode, encode_opaque, vae_builder
from tests.families.qwen_image21.miniature import VAE
from tests.families.qwen_miniature import fill


@pytest.fixture(scope="module")
def vae() -> Any:
    from diffusers import AutoencoderKLQwenImage21

    module = AutoencoderKLQwenImage21(**VAE)
    fill(module)
    return module.eval()


def statistics() -> tuple[Tensor, Tensor]:
    return torch.tensor(VAE["latents_mean"]).view(1, 8, 1, 1), torch.tensor(VAE["latents_std"]).view(1, 8, 1, 1)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_it_is_built_without_weights() -> None:
    assert all(tensor.is_meta for tensor in vae_builder()(VAE).state_dict().values())


def test_a_picture_is_encoded_as_the_pipeline_encodes_an_opaque_one(vae: Any) -> None:
    """The pipeline converts to RGBA: the fourth channel of an opaque pixel is 255, which becomes 1."""
    import numpy as np
    from diffusers.image_processor import VaeImageProcessor
    from PIL import Image

    numbers = np.random.default_rng(1).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    theirs = VaeImageProcessor(vae_scale_factor=16).preprocess(Image.fromarray(numbers).convert("RGBA"))
    means, deviations = statistics()
    with torch.no_grad():
        mode = vae.encode(theirs[:, :, None]).latent_dist.mode()[:, :, 0]
    found = encode_opaque(vae, torch.from_numpy(numbers).permute(2, 0, 1) / 127.5 - 1)
    assert found.shape == (8, 2, 4)
    assert torch.allclose(found, ((mode - means) / deviations)[0], atol=1e-4)


def test_what_is_decoded_is_put_on_white(vae: Any) -> None:
    means, deviations = statistics()
    latents = drawn(1, 8, 2, 4)
    with torch.no_grad():
        colours, opacity = vae.decode((latents * deviations + means)[:, :, None]).sample[:, :, 0].split([3, 1], dim=1)
    found = decode(vae, latents)
    share = (opacity + 1) / 2
    assert found.shape == (1, 3, 32, 64) and 0 < float(share.mean()) < 1
    assert torch.allclose(found, share * colours + (1 - share) * torch.ones(3)[:, None, None], atol=1e-5)


@pytest.mark.ci
def test_tiles_are_decoded_where_memory_is_short(vae: Any) -> None:
    latents = drawn(1, 8, 24, 20)
    pixels = 384 * 320
    whole, tiled = decode(vae, latents), decode(vae, latents, free_memory=12_000 * pixels)
    assert torch.equal(decode(vae, latents, free_memory=14_000 * pixels), whole)
    assert tiled.shape == whole.shape == (1, 3, 384, 320) and not torch.equal(tiled, whole)
    picture = drawn(3, 384, 320).clamp(-1, 1)
    large, small = encode_opaque(vae, picture), encode_opaque(vae, picture, 256)
    assert small.shape == large.shape == (8, 24, 20) and not torch.equal(small, large)
