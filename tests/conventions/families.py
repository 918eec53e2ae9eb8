"""What the tests of conventions need to know of a family that is not in the family itself: how diffusers' pipeline is
called, and what its latents are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Taught:
    """A family whose miniature can be taught."""

    pipeline: str  # the class in diffusers
    statistics: Callable[[Any, Tensor], Mapping[str, Any]]
    """Pixels -> what the config of the VAE says of latents, measured: a random VAE has its own."""
    normalized: Callable[[Any, Tensor], Tensor]
    """The inverse of what the pipeline does before it decodes: pixels -> latents (B, C, h, w)."""
    packed: Callable[[Any, Tensor], Tensor]
    """(B, C, h, w) -> what the pipeline takes as `latents`."""
    unpacked: Callable[[Any, Tensor, int], Tensor]
    """What it gives as latents of pictures with that many pixels on a side -> (B, C, h, w)."""
    call: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of its call: no guidance, short texts."""
    steps: int = 500
    """Of teaching."""
    source: str = "diffusers"
    """The module that has the class: of pipelines that are made of blocks, one with their interface is ours."""

    def encode(self, pipeline: Any, pixels: Tensor) -> Tensor:
        """Pixels -> what the pipeline takes as `latents`."""
        return self.packed(pipeline, self.normalized(pipeline, pixels))


def _qwen_mean(pipeline: Any, pixels: Tensor) -> Tensor:
    """Of Qwen-Image's VAE: pictures are films of one frame."""
    return pipeline.vae.encode(pixels[:, :, None]).latent_dist.mean[:, :, 0]


def _qwen_statistics(pipeline: Any, pixels: Tensor) -> Mapping[str, Any]:
    found = _qwen_mean(pipeline, pixels)
    return {"latents_mean": found.mean((0, 2, 3)).tolist(), "latents_std": found.std((0, 2, 3)).tolist()}


def _qwen_latents(pipeline: Any, pixels: Tensor) -> Tensor:
    config = pipeline.vae.config
    means, deviations = (torch.tensor(config[name]).view(1, -1, 1, 1) for name in ("latents_mean", "latents_std"))
    return (_qwen_mean(pipeline, pixels) - means) / deviations


def _krea2_packed(pipeline: Any, latents: Tensor) -> Tensor:
    return pipeline._pack_latents(latents, *latents.shape)


def _krea2_unpacked(pipeline: Any, latents: Tensor, side: int) -> Tensor:
    return pipeline._unpack_latents(latents, side, side)[:, :, 0]


def _kl_mean(pipeline: Any, pixels: Tensor) -> Tensor:
    """Of Stable Diffusion's VAE and those like it."""
    return pipeline.vae.encode(pixels).latent_dist.mean


def _kl_statistics(pipeline: Any, pixels: Tensor) -> Mapping[str, Any]:
    found = _kl_mean(pipeline, pixels)
    return {"shift_factor": float(found.mean()), "scaling_factor": 1 / float(found.std())}


def _kl_latents(pipeline: Any, pixels: Tensor) -> Tensor:
    config = pipeline.vae.config
    return (_kl_mean(pipeline, pixels) - config.shift_factor) * config.scaling_factor


def _as_they_are(pipeline: Any, latents: Tensor, side: int = 0) -> Tensor:
    return latents


def _film(pipeline: Any, latents: Tensor) -> Tensor:
    return latents[:, :, None]


def _frame(pipeline: Any, latents: Tensor, side: int) -> Tensor:
    return latents[:, :, 0]


FAMILIES = {
    "krea2": Taught(
        "Krea2Pipeline",
        _qwen_statistics,
        _qwen_latents,
        _krea2_packed,
        _krea2_unpacked,
        {"guidance_scale": 0.0, "max_sequence_length": 64},
    ),
    "zimage": Taught(
        "ZImagePipeline",
        _kl_statistics,
        _kl_latents,
        _as_they_are,
        _as_they_are,
        {"guidance_scale": 0.0},
    ),
    "anima": Taught(
        "AnimaPipeline",
        _qwen_statistics,
        _qwen_latents,
        _film,
        _frame,
        steps=1200,  # its captions are a few among 512 tokens
        source="tests.conventions.anima",
    ),
}
