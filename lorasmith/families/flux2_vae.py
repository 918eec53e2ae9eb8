"""The VAE of FLUX.2: an AutoencoderKL whose latents come in patches of 2 x 2, each channel by statistics that it keeps.

The library's class is imported when the VAE is built, not before. Knows no family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from lorasmith.families.loading import Build, on_meta_device

PATCH = 2
_DECODER_BYTES = 7500
"""Memory for each pixel that is decoded in float32: that of Stable Diffusion's VAE."""
_TILE_PIXELS = 512  # a side


def vae_builder() -> Build:
    """Imports diffusers; the function that builds an AutoencoderKLFlux2."""
    from diffusers import AutoencoderKLFlux2

    build = on_meta_device(AutoencoderKLFlux2)

    def built(config: Mapping[str, Any]) -> nn.Module:
        vae: Any = build(config)
        vae.bn = _Statistics(vae.bn.num_features)
        module: nn.Module = vae
        return module

    return built


class _Statistics(nn.Module):
    """What is left of the batch norm, which nothing calls: it would count batches too."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, torch.empty(channels, device="meta"))


@torch.no_grad()
def encode_with_vae(vae: Any, pixels: Tensor, tile: int = 0) -> Tensor:
    """(3, H, W) in [-1, 1] -> (4 C, H / 16, W / 16), float32: the mean of the posterior in patches, each channel by its
    mean and deviation. Pictures larger than `tile` pixels on a side are encoded in overlapping tiles."""
    _set_tiles(vae, tile)
    posterior = vae.encode(pixels[None].to(vae.device, torch.float32)).latent_dist
    means, deviations = _statistics(vae)
    return ((pixel_unshuffle(posterior.mean, PATCH) - means) / deviations)[0]


@torch.no_grad()
def decode_with_vae(vae: Any, latents: Tensor, free_memory: int | None = None) -> Tensor:
    """(B, 4 C, h, w) -> (B, 3, H, W), about in [-1, 1], float32.

    Where a whole picture takes more than `free_memory` bytes it is decoded in overlapping tiles, which differ a little
    from the whole.
    """
    pixels = len(latents) * latents.shape[2] * latents.shape[3] * (PATCH * _factor(vae)) ** 2
    _set_tiles(vae, _TILE_PIXELS if free_memory is not None and pixels * _DECODER_BYTES > free_memory else 0)
    means, deviations = _statistics(vae)
    pictures: Tensor = vae.decode(
        pixel_shuffle(latents.to(vae.device, torch.float32) * deviations + means, PATCH)
    ).sample
    return pictures


def _statistics(vae: Any) -> tuple[Tensor, Tensor]:
    variances = vae.bn.running_var + vae.config.batch_norm_eps
    return vae.bn.running_mean.view(1, -1, 1, 1), variances.sqrt().view(1, -1, 1, 1)


def _factor(vae: Any) -> int:
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def _set_tiles(vae: Any, side: int) -> None:
    """Has the VAE work in tiles of that many pixels on a side; 0: on whole pictures."""
    vae.use_tiling = side > 0
    if side:
        vae.tile_sample_min_size, vae.tile_latent_min_size = side, side // _factor(vae)
