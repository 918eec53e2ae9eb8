"""The VAE of Qwen-Image: scaled in each channel, and a picture is a film of one frame."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lorasmith.families.qwen_vae import decode_with_vae, encode_with_vae, vae_builder
from tests.families.krea2.miniature import VAE, fill


@pytest.fixture(scope="module")
def vae() -> Any:
    from diffusers import AutoencoderKLQwenImage

    module = AutoencoderKLQwenImage(**VAE)
    fill(module)
    return module.eval()


def statistics() -> tuple[Tensor, Tensor]:
    return torch.tensor(VAE["latents_mean"]).view(1, 4, 1, 1), torch.tensor(VAE["latents_std"]).view(1, 4, 1, 1)


def test_it_is_built_without_weights() -> None:
    assert all(tensor.is_meta for tensor in vae_builder()(VAE).state_dict().values())


def test_latents_are_scaled_as_pipelines_unscale_them(vae: Any) -> None:
    means, deviations = statistics()
    latents = torch.randn((1, 4, 4, 6), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = vae.decode((latents * deviations + means)[:, :, None]).sample[:, :, 0]
    decoded = decode_with_vae(vae, latents, 8)
    assert torch.allclose(decoded, expected, atol=1e-5) and decoded.shape == (1, 3, 32, 48)
    pixels = torch.rand((3, 32, 48), generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        mode = vae.encode(pixels[None, :, None]).latent_dist.mode()[:, :, 0]
    found = encode_with_vae(vae, pixels)
    assert torch.allclose(found, ((mode - means) / deviations)[0], atol=1e-5) and found.shape == (4, 4, 6)


@pytest.mark.parametrize(("memory", "side"), [(512**2 * 10, 512), (512**2 * 10 - 1, 256), (1, 256)])
def test_tiles_are_as_large_as_memory_allows(vae: Any, memory: int, side: int) -> None:
    decode_with_vae(vae, torch.zeros(1, 4, 2, 2), 300, memory, pixel_bytes=10)
    assert vae.use_tiling and vae.tile_sample_min_height == side
    decode_with_vae(vae, torch.zeros(1, 4, 2, 2), 300, 600**2 * 10, pixel_bytes=10)
    assert not vae.use_tiling


@pytest.mark.ci
def test_tiles_are_decoded_where_memory_is_short(vae: Any) -> None:
    latents = torch.randn((1, 4, 48, 40), generator=torch.Generator().manual_seed(1))
    whole, tiled = decode_with_vae(vae, latents, 8), decode_with_vae(vae, latents, 8, free_memory=1)
    assert tiled.shape == whole.shape == (1, 3, 384, 320) and not torch.equal(tiled, whole)
    assert torch.equal(decode_with_vae(vae, latents, 8), whole)
    pixels = torch.rand((3, 384, 320), generator=torch.Generator().manual_seed(2)) * 2 - 1
    large, small = encode_with_vae(vae, pixels), encode_with_vae(vae, pixels, 256)
    assert small.shape == large.shape == (4, 48, 40) and not torch.equal(small, large)
    assert torch.equal(encode_with_vae(vae, pixels, 512), large)
