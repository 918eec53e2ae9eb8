"""Parts that the families of latent diffusion share."""

from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from lorasmith.demo.layouts import LAYOUTS, vae_config
from lorasmith.families.latent_diffusion import decode_with_vae


def test_a_large_picture_is_decoded_in_tiles_where_memory_is_short() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL.from_config(vae_config(LAYOUTS["nano"])).eval()
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    latents = torch.randn(1, 4, 768 // factor, 640 // factor)
    seen: list[torch.Size] = []

    def counted(module: Any, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].shape)

    vae.decoder.register_forward_pre_hook(counted)
    whole = decode_with_vae(vae, latents, free_memory=2**40)
    assert torch.equal(decode_with_vae(vae, latents), whole) and len(seen) == 2
    seen.clear()
    tiled = decode_with_vae(vae, latents, free_memory=2**30)
    assert len(seen) == 4 and max(max(shape[2:]) for shape in seen) == 512 // factor
    assert tiled.shape == whole.shape
    assert float((tiled - whole).abs().mean()) < 0.2 * float(whole.std())
