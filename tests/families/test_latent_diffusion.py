"""Parts that the families of latent diffusion share."""

import copy
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from lorasmith.demo.layouts import LAYOUTS, vae_config
from lorasmith.families.latent_diffusion import decode_with_vae, encode_with_vae


def test_a_vae_that_overflows_in_float16_gives_finite_latents() -> None:
    """Seen by what comes out: in float16 the activations of this encoder have no numbers (SDXL's own VAE is like that);
    pictures are encoded in float32, whatever the precision of the model's file and of the training."""
    torch.manual_seed(0)
    vae: Any = AutoencoderKL.from_config(vae_config(LAYOUTS["nano"])).eval()
    with torch.no_grad():
        vae.encoder.conv_in.weight *= 1e6
    pixels = torch.rand((3, 64, 64), generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        in_half = copy.deepcopy(vae).half().encode(pixels[None].half()).latent_dist.mean
    assert not bool(torch.isfinite(in_half).all())
    assert bool(torch.isfinite(encode_with_vae(vae, pixels)).all())


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


def test_a_large_picture_is_encoded_in_tiles_of_the_side_asked_for() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL.from_config(vae_config(LAYOUTS["nano"])).eval()
    pixels = torch.rand((3, 192, 128), generator=torch.Generator().manual_seed(1)) * 2 - 1
    seen: list[torch.Size] = []
    vae.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[2:]))
    whole = encode_with_vae(vae, pixels)
    assert torch.equal(encode_with_vae(vae, pixels, 192), whole) and len(seen) == 2
    seen.clear()
    tiled = encode_with_vae(vae, pixels, 128)
    assert max(max(shape) for shape in seen) == 128 and len(seen) > 1
    assert tiled.shape == whole.shape
    assert 0 < float((tiled - whole).abs().mean()) < 0.2 * float(whole.std())
    assert torch.equal(encode_with_vae(vae, pixels), whole), "the tiles of the last picture are forgotten"
