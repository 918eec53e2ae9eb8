"""The VAE of Qwen-Image, which Krea 2 has too. Knows no family.

The library's class is imported when the VAE is built, not before. It takes films: a picture is a film of one frame.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lorasmith.families.loading import Build, on_meta_device

_DECODER_BYTES = 7500
"""Memory for each pixel that is decoded in float32: that of Stable Diffusion's VAE."""
_TILES = (512, 256)  # pixels on a side; with fewer of them a picture is nearer to the whole


def vae_builder() -> Build:
    """Imports diffusers; the function that builds an AutoencoderKLQwenImage."""
    from diffusers import AutoencoderKLQwenImage

    return on_meta_device(AutoencoderKLQwenImage)


@torch.no_grad()
def encode_with_vae(vae: Any, pixels: Tensor, tile: int = 0) -> Tensor:
    """(3, H, W) in [-1, 1] -> (C, h, w), float32: the mean of the posterior, in each channel by its published mean and
    deviation. Pictures larger than `tile` pixels on a side are encoded in overlapping tiles."""
    _set_tiles(vae, tile)
    posterior = vae.encode(pixels[None, :, None].to(vae.device, torch.float32)).latent_dist
    means, deviations = _statistics(vae)
    return ((posterior.mean - means) / deviations)[0, :, 0]


@torch.no_grad()
def decode_with_vae(
    vae: Any, latents: Tensor, factor: int, free_memory: int | None = None, *, pixel_bytes: int = _DECODER_BYTES
) -> Tensor:
    """(B, C, h, w) -> (B, 3, H, W), about in [-1, 1], float32, where a side has `factor` times the pixels.

    Where a whole picture takes more than `free_memory` bytes, each pixel `pixel_bytes`, it is decoded in overlapping
    tiles, which differ a little from the whole.
    """
    height, width = latents.shape[2:]
    takes = len(latents) * height * width * factor**2 * pixel_bytes
    _set_tiles(vae, 0 if free_memory is None or takes <= free_memory else _largest_tile(free_memory // pixel_bytes))
    means, deviations = _statistics(vae)
    films = latents[:, :, None].to(vae.device, torch.float32) * deviations + means
    pictures: Tensor = vae.decode(films).sample[:, :, 0]
    return pictures


def _largest_tile(pixels: int) -> int:
    """The side of the largest tiles of at most that many pixels, or of the smallest."""
    return next((side for side in _TILES if side**2 <= pixels), _TILES[-1])


def _set_tiles(vae: Any, side: int) -> None:
    """Has the VAE work in tiles of that many pixels on a side, which overlap by a quarter; 0: on whole pictures."""
    vae.use_tiling = side > 0
    if side:
        vae.enable_tiling(side, side, side * 3 // 4, side * 3 // 4)


def _statistics(vae: Any) -> tuple[Tensor, Tensor]:
    means, deviations = (
        torch.tensor(numbers, device=vae.device).view(1, -1, 1, 1, 1)
        for numbers in (vae.config.latents_mean, vae.config.latents_std)
    )
    return means, deviations
