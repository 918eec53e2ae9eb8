"""The VAE of FLUX.2; `flux2_klein/test_family` compares it with the pipeline."""

from typing import Any

import pytest
import torch

from lorasmith.families.flux2_vae import decode_with_vae, encode_with_vae, vae_builder
from tests.families.flux2_klein.miniature import VAE
from tests.families.qwen_miniature import fill


@pytest.fixture(scope="module")
def vae() -> Any:
    from diffusers import AutoencoderKLFlux2

    module = AutoencoderKLFlux2(**VAE)
    fill(module)
    return module.eval()


def test_it_is_built_without_weights_and_counts_nothing() -> None:
    tensors = vae_builder()(VAE).state_dict()
    assert all(tensor.is_meta for tensor in tensors.values())
    assert [name for name in tensors if name.startswith("bn.")] == ["bn.running_mean", "bn.running_var"]


@pytest.mark.ci
def test_tiles_are_used_where_memory_is_short(vae: Any) -> None:
    latents = torch.randn((1, 16, 36, 40), generator=torch.Generator().manual_seed(1))
    whole, tiled = decode_with_vae(vae, latents), decode_with_vae(vae, latents, free_memory=1)
    assert tiled.shape == whole.shape == (1, 3, 576, 640) and not torch.equal(tiled, whole)
    assert torch.equal(decode_with_vae(vae, latents), whole)
    pixels = torch.rand((3, 576, 640), generator=torch.Generator().manual_seed(2)) * 2 - 1
    large, small = encode_with_vae(vae, pixels), encode_with_vae(vae, pixels, 512)
    assert small.shape == large.shape == (16, 36, 40) and not torch.equal(small, large)
    assert torch.equal(encode_with_vae(vae, pixels, 640), large)
