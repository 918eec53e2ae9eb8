"""What the tests of conventions need to know of a family that is not in the family itself: how diffusers' pipeline is
called, and what its latents are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Taught:
    """A family whose miniature can be taught. Latents are (B, C, h, w) unless a pipeline has them in its own form."""

    load: Callable[[Path], Any]
    """diffusers' pipeline of a folder, all of it in float32."""
    encoded: Callable[[Any, Tensor], Tensor]
    """Pixels -> the mean of the VAE's posterior, as latents."""
    measure: Callable[[Any, Tensor], None]
    """Has the VAE keep the statistics of latents: a random VAE has its own."""
    normalized: Callable[[Any, Tensor], Tensor]
    """By these statistics: the inverse of what the pipeline does before it decodes."""
    packed: Callable[[Any, Tensor], Tensor]
    """Latents -> what the pipeline takes as `latents`."""
    unpacked: Callable[[Any, Tensor, int], Tensor]
    """What the pipeline's scheduler is given, of pictures with that many pixels on a side -> latents."""
    call: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of its call: no guidance, short texts."""
    steps: int = 500
    """Of teaching."""
    length_of: Callable[[Any, str], int] = lambda pipeline, caption: 0
    """The tokens of a caption, where the examples of a batch must have equally many."""

    def latents(self, pipeline: Any, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            return self.normalized(pipeline, self.encoded(pipeline, pixels))


def _loaded(pipeline_class: str, folder: Path) -> Any:
    import diffusers

    return getattr(diffusers, pipeline_class).from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def _as_they_are(pipeline: Any, latents: Tensor, side: int = 0) -> Tensor:
    return latents


def _grid(pipeline: Any, tokens: Tensor, side: int) -> Tensor:
    """Tokens row by row, each of a single place."""
    rows = round(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).unflatten(2, (rows, rows))


# -- VAEs ------------------------------------------------------------------------------------------


def _film_mean(pipeline: Any, pixels: Tensor) -> Tensor:
    """Of VAEs for films: pictures are films of one frame."""
    return pipeline.vae.encode(pixels[:, :, None]).latent_dist.mean[:, :, 0]


def _with_alpha(pipeline: Any, pixels: Tensor) -> Tensor:
    return _film_mean(pipeline, torch.cat([pixels, torch.ones_like(pixels[:, :1])], 1))


def _measure_channels(pipeline: Any, latents: Tensor) -> None:
    found = {"latents_mean": latents.mean((0, 2, 3)).tolist(), "latents_std": latents.std((0, 2, 3)).tolist()}
    pipeline.vae.register_to_config(**found)


def _by_channel(pipeline: Any, latents: Tensor) -> Tensor:
    config = pipeline.vae.config
    means, deviations = (torch.tensor(config[name]).view(1, -1, 1, 1) for name in ("latents_mean", "latents_std"))
    return (latents - means) / deviations


def _kl_mean(pipeline: Any, pixels: Tensor) -> Tensor:
    """Of Stable Diffusion's VAE and those like it."""
    return pipeline.vae.encode(pixels).latent_dist.mean


def _measure_whole(pipeline: Any, latents: Tensor) -> None:
    pipeline.vae.register_to_config(shift_factor=float(latents.mean()), scaling_factor=1 / float(latents.std()))


def _as_a_whole(pipeline: Any, latents: Tensor) -> Tensor:
    return (latents - pipeline.vae.config.shift_factor) * pipeline.vae.config.scaling_factor


def _patches_mean(pipeline: Any, pixels: Tensor) -> Tensor:
    return pipeline._patchify_latents(_kl_mean(pipeline, pixels))


def _measure_patches(pipeline: Any, latents: Tensor) -> None:
    pipeline.vae.bn.running_mean.copy_(latents.mean((0, 2, 3)))
    pipeline.vae.bn.running_var.copy_(latents.var((0, 2, 3)))


def _by_statistics(pipeline: Any, latents: Tensor) -> Tensor:
    norm, epsilon = pipeline.vae.bn, pipeline.vae.config.batch_norm_eps
    return (latents - norm.running_mean.view(1, -1, 1, 1)) / (norm.running_var + epsilon).sqrt().view(1, -1, 1, 1)


# -- families --------------------------------------------------------------------------------------


def _packed(pipeline: Any, latents: Tensor) -> Tensor:
    return pipeline._pack_latents(latents, *latents.shape)


def _krea2_unpacked(pipeline: Any, latents: Tensor, side: int) -> Tensor:
    return pipeline._unpack_latents(latents, side, side)[:, :, 0]


def _flux1_unpacked(pipeline: Any, latents: Tensor, side: int) -> Tensor:
    return pipeline._unpack_latents(latents, side, side, pipeline.vae_scale_factor)


def _qwen_image21_pipeline(folder: Path) -> Any:
    from tests.families.qwen_image21.miniature import load_pipeline

    pipeline = load_pipeline(folder)
    pipeline.text_encoder.float()
    return pipeline


def _qwen_image21_length(pipeline: Any, caption: str) -> int:
    return len(pipeline.processor.tokenizer(caption)["input_ids"])


def _anima_pipeline(folder: Path) -> Any:
    from tests.conventions.anima import AnimaPipeline

    return AnimaPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def _film(pipeline: Any, latents: Tensor) -> Tensor:
    return latents[:, :, None]


def _first_frame(pipeline: Any, latents: Tensor, side: int) -> Tensor:
    return latents[:, :, 0]


FAMILIES = {
    "anima": Taught(
        _anima_pipeline,
        _film_mean,
        _measure_channels,
        _by_channel,
        _film,
        _first_frame,
        steps=1200,  # its captions are a few among 512 tokens
    ),
    "krea2": Taught(
        partial(_loaded, "Krea2Pipeline"),
        _film_mean,
        _measure_channels,
        _by_channel,
        _packed,
        _krea2_unpacked,
        {"guidance_scale": 0.0, "max_sequence_length": 64},
    ),
    "zimage": Taught(
        partial(_loaded, "ZImagePipeline"),
        _kl_mean,
        _measure_whole,
        _as_a_whole,
        _as_they_are,
        _as_they_are,
        {"guidance_scale": 0.0},
    ),
    "qwen_image21": Taught(
        _qwen_image21_pipeline,
        _with_alpha,
        _measure_channels,
        _by_channel,
        _packed,
        _grid,
        {"use_kv_cache": False},
        length_of=_qwen_image21_length,
    ),
    "flux2_klein": Taught(
        partial(_loaded, "Flux2KleinPipeline"),
        _patches_mean,
        _measure_patches,
        _by_statistics,
        _as_they_are,
        _grid,
        {"guidance_scale": 1.0},
    ),
    "flux1": Taught(
        partial(_loaded, "FluxPipeline"),
        _kl_mean,
        _measure_whole,
        _as_a_whole,
        _packed,
        _flux1_unpacked,
        {"guidance_scale": 1.0},
    ),
}
