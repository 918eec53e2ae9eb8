"""Parts that the families of latent diffusion share: the UNet, the VAE (AutoencoderKL), the discrete noise process.

The libraries' classes are imported when a component is built, not before. Knows no family.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.data.types import LATENTS, Inputs
from lorasmith.diffusion.process import DdpmProcess
from lorasmith.families.attention import use_plain_attention
from lorasmith.families.forward_work import ForwardWork, Shapes
from lorasmith.families.loading import Build, on_meta_device
from lorasmith.families.unet_work import unet_work
from lorasmith.families.weights import BaseWeights
from lorasmith.targets import TargetModule

_UNET_TARGETS = re.compile(
    r".*\.attentions\.\d+\.(proj_in|proj_out|transformer_blocks\.\d+\.(attn[12]\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2)))"
    r"|.*\.resnets\.\d+\.(conv1|conv2|conv_shortcut|time_emb_proj)|.*\.(down|up)samplers\.\d+\.conv"
)
# q, k and v of a self-attention; k and v of an attention to the caption, whose q has another input.
_SHARED_INPUT = re.compile(r"(.*\.(?:attn1(?=\.to_[qkv]$)|attn2(?=\.to_[kv]$)))")

_DECODER_BYTES = 7500
"""Memory for each pixel that is decoded in float32: 1.8 GiB at 512 x 512, measured with the VAE of SD 1.5 and SDXL."""
_TILE_PIXELS = 512  # a side

SHORTEST_CAPTION = 77
"""Tokens, start, end and padding included."""


# -- UNet ------------------------------------------------------------------------------------------


def unet_builder() -> Build:
    """Imports diffusers; the function that builds a UNet2DConditionModel."""
    from diffusers import UNet2DConditionModel

    build = on_meta_device(UNet2DConditionModel)

    def built(config: Any) -> nn.Module:
        unet = build(config)
        use_plain_attention(unet)
        return unet

    return built


def unet_targets(unet: nn.Module) -> Iterable[TargetModule]:
    """The linear layers and convolutions of the blocks, as sd-scripts chooses them for a LoRA with convolutions."""
    for path, _ in unet.named_modules():
        if _UNET_TARGETS.fullmatch(path):
            shared = _SHARED_INPUT.match(path)
            yield TargetModule.inside(
                unet,
                path,
                name=f"denoiser.{path}",
                component="denoiser",
                shared_input="" if shared is None else f"denoiser.{shared[1]}",
            )


def repeated_unet_blocks(unet: nn.Module) -> list[nn.Module]:
    """The resnets and the transformer blocks: nearly all of the operations."""
    return [module for module in unet.modules() if type(module).__name__ in ("BasicTransformerBlock", "ResnetBlock2D")]


def predict_with_unet(
    unet: Any,
    noisy_latents: Tensor,
    timesteps: Tensor,
    prompt_embeds: Tensor,
    added: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """The UNet's output in its own precision, to which latents and embeddings are converted first.

    Args:
        added: further conditions by diffusers' names, "text_embeds" and "time_ids" for SDXL. Sizes stay float32 until
            they are embedded: in bfloat16, 1023 would be 1024.
    """
    precision = unet.conv_in.weight.dtype  # never a target: an adapter's float32 must not show here
    kept = {"time_ids": torch.float32}
    (prediction,) = unet(
        noisy_latents.to(precision),
        timesteps,
        encoder_hidden_states=prompt_embeds.to(precision),
        added_cond_kwargs=None
        if added is None
        else {name: value.to(kept.get(name, precision)) for name, value in added.items()},
        return_dict=False,
    )
    return prediction


def ddpm_process(weights: BaseWeights) -> DdpmProcess:
    """The process of `scheduler_config.json`, with the defaults that diffusers gives to missing values."""
    config = weights.configs["scheduler"]
    return DdpmProcess.build(
        beta_start=config.get("beta_start", 0.0001),
        beta_end=config.get("beta_end", 0.02),
        num_train_timesteps=config.get("num_train_timesteps", 1000),
        beta_schedule=config.get("beta_schedule", "linear"),
        prediction=weights.noise.prediction,
        zero_terminal_snr=weights.noise.zero_terminal_snr,
    )


def forward_work(shapes: Shapes, inputs: Inputs) -> ForwardWork:
    """The work of the UNet for an example. Captions that are encoded as they are used count as the shortest."""
    height, width = inputs[LATENTS].shape[-2:]
    lengths = [value.shape[0] for name, value in inputs.items() if name.endswith("_embeds")]
    lengths += [value.numel() for name, value in inputs.items() if name.endswith("_ids") and name != "time_ids"]
    return unet_work(shapes, height=height, width=width, tokens=max(lengths, default=SHORTEST_CAPTION))


# -- VAE -------------------------------------------------------------------------------------------


def vae_builder() -> Build:
    """Imports diffusers; the function that builds an AutoencoderKL."""
    from diffusers import AutoencoderKL

    return on_meta_device(AutoencoderKL)


@torch.no_grad()
def encode_with_vae(vae: Any, pixels: Tensor, tile: int = 0) -> Tensor:
    """(3, H, W) in [-1, 1] -> (C, h, w), float32: the mean of the posterior, less the shift where the VAE has one,
    times the scaling factor.

    Pictures larger than `tile` pixels on a side are encoded in overlapping tiles, whose norms see a part of it.
    """
    _set_tiles(vae, tile)
    posterior = vae.encode(pixels[None].to(vae.device, torch.float32)).latent_dist
    shift = vae.config.shift_factor
    latents = posterior.mean - shift if shift else posterior.mean
    return (latents * vae.config.scaling_factor)[0]


@torch.no_grad()
def decode_with_vae(vae: Any, latents: Tensor, free_memory: int | None = None) -> Tensor:
    """(B, C, h, w) -> (B, 3, H, W), about in [-1, 1], float32.

    Where a whole picture takes more than `free_memory` bytes it is decoded in overlapping tiles, which differ a little
    from the whole: their norms see a part of the picture.
    """
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    pixels = len(latents) * math.prod(latents.shape[2:]) * factor**2
    is_large = free_memory is not None and pixels * _DECODER_BYTES > free_memory
    _set_tiles(vae, _TILE_PIXELS if is_large else 0)
    unscaled, shift = latents.to(vae.device, torch.float32) / vae.config.scaling_factor, vae.config.shift_factor
    return vae.decode(unscaled + shift if shift else unscaled).sample


def _set_tiles(vae: Any, side: int) -> None:
    """Has the VAE work in tiles of that many pixels on a side; 0: on whole pictures."""
    vae.use_tiling = side > 0
    if side:
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        vae.tile_sample_min_size, vae.tile_latent_min_size = side, side // factor
