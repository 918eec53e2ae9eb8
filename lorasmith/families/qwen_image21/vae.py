"""The VAE of Qwen-Image 2.1, whose pictures have a fourth channel: how opaque a pixel is, from -1 to 1.

Pictures to train on are opaque. A picture that is sampled is put on white, as pictures to train on are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lorasmith.families.loading import Build, on_meta_device
from lorasmith.families.qwen_image21.vae_files import FACTOR
from lorasmith.families.qwen_vae import decode_with_vae, encode_with_vae

_DECODER_BYTES = 13_000
"""Memory for each pixel that is decoded in float32, measured at 192 and 256 pixels: 14 GB for 1024 x 1024."""


def vae_builder() -> Build:
    """Imports diffusers; the function that builds an AutoencoderKLQwenImage21."""
    from diffusers import AutoencoderKLQwenImage21

    return on_meta_device(AutoencoderKLQwenImage21)


def encode_opaque(vae: Any, pixels: Tensor, tile: int = 0) -> Tensor:
    """(3, H, W) in [-1, 1] -> (C, h, w), float32: as `qwen_vae.encode_with_vae`."""
    return encode_with_vae(vae, torch.cat([pixels, torch.ones_like(pixels[:1])]), tile)


def decode(vae: Any, latents: Tensor, free_memory: int | None = None) -> Tensor:
    """(B, C, h, w) -> (B, 3, H, W), in [-1, 1], float32: as `qwen_vae.decode_with_vae`."""
    decoded = decode_with_vae(vae, latents, FACTOR, free_memory, pixel_bytes=_DECODER_BYTES)
    colours, opacity = decoded[:, :3], (decoded[:, 3:] + 1) / 2
    return colours * opacity + (1 - opacity)
