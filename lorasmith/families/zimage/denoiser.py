"""The forward pass of Z-Image's denoiser for a batch in tensors of fixed shapes, by the modules of diffusers' class.

The class itself takes lists of captions and asks for the length of each, which a recorded step cannot; and it would
count the positions of a picture behind the padding of the batch's longest caption. Here lengths are numbers on the
device, and a batch is its examples alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lorasmith.families.zimage.layout import PATCH, TOKENS

_SIZE = f"{PATCH}-1"  # the key of the layers for patches of this size in a single frame


def forward(denoiser: Any, latents: Tensor, times: Tensor, texts: Tensor, is_text: Tensor) -> Tensor:
    """Latents (B, C, h, w) and texts (B, T, width) in the denoiser's precision, times in [0, 1] (1: the picture) ->
    the picture minus the noise, (B, C, h, w).

    Args:
        texts: T is a multiple of TOKENS.
        is_text: (B, T), False where a text is padded.
    """
    rows, columns = (side // PATCH for side in latents.shape[2:])
    lengths = is_text.sum(1)
    filled = (lengths + TOKENS - 1) // TOKENS * TOKENS  # the text and the learned tokens behind it
    mask = None
    if len(texts) > 1:  # a single text is padded by no more than its learned tokens
        mask = torch.arange(texts.shape[1], device=texts.device) < filled[:, None]
    adjusted = _embedded(denoiser.t_embedder, times * denoiser.t_scale, latents.dtype)
    picture = _picture_tokens(denoiser, latents)
    picture_waves = _waves(denoiser, _picture_positions(filled, rows, columns, picture.shape[1]))
    picture = _through(denoiser, denoiser.noise_refiner, picture, None, picture_waves, adjusted)
    text = torch.where(is_text[:, :, None], denoiser.cap_embedder(texts), denoiser.cap_pad_token)
    text_waves = _waves(denoiser, _text_positions(texts))
    text = _through(denoiser, denoiser.context_refiner, text, mask, text_waves)
    if mask is not None:
        mask = torch.cat([mask.new_ones(picture.shape[:2]), mask], 1)
    both = torch.cat([picture, text], 1)
    both = _through(denoiser, denoiser.layers, both, mask, torch.cat([picture_waves, text_waves], 1), adjusted)
    patches = denoiser.all_final_layer[_SIZE](both[:, : rows * columns], c=adjusted)
    return unpatched(patches, rows, columns)


def _embedded(embedder: Any, times: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, width) for `times`: the class itself reads the weight of its first layer, which a trained layer does not
    have."""
    frequencies = embedder.timestep_embedding(times, embedder.frequency_embedding_size)
    embedded: Tensor = embedder.mlp(frequencies.to(dtype))
    return embedded


def patched(latents: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, tokens, PATCH² * C): patches row by row, each of them by row, column and channel."""
    patches = latents.unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))
    return patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatched(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """The way back from `patched`."""
    patches = tokens.unflatten(2, (PATCH, PATCH, -1)).unflatten(1, (rows, columns))
    return patches.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def _picture_tokens(denoiser: Any, latents: Tensor) -> Tensor:
    """(B, N, width): the embedded patches, and learned tokens up to a multiple of TOKENS."""
    patches = patched(latents)
    missing = -patches.shape[1] % TOKENS
    return torch.cat(
        [denoiser.all_x_embedder[_SIZE](patches), denoiser.x_pad_token.expand(len(patches), missing, -1)], 1
    )


def _picture_positions(filled: Tensor, rows: int, columns: int, tokens: int) -> Tensor:
    """(B, tokens, 3): (the first place behind the text, row, column); learned tokens at the origin."""
    device = filled.device
    grid = torch.cartesian_prod(torch.arange(rows, device=device), torch.arange(columns, device=device))
    behind = (filled + 1)[:, None, None].expand(-1, rows * columns, 1)
    placed = torch.cat([behind, grid.expand(len(filled), -1, -1)], 2)
    return torch.cat([placed, placed.new_zeros(len(filled), tokens - rows * columns, 3)], 1)


def _text_positions(texts: Tensor) -> Tensor:
    """(B, T, 3): (place from 1, 0, 0), the learned tokens too."""
    places = torch.arange(1, texts.shape[1] + 1, device=texts.device)
    positions = torch.stack([places, *[torch.zeros_like(places)] * 2], 1)
    return positions.expand(len(texts), -1, -1)


def _waves(denoiser: Any, positions: Tensor) -> Tensor:
    """The numbers by which queries and keys at these positions are turned, (B, tokens, half a head, …)."""
    waves: Tensor = denoiser.rope_embedder(positions.flatten(0, 1)).unflatten(0, positions.shape[:2])
    return waves


def _through(
    denoiser: Any, blocks: Any, tokens: Tensor, mask: Tensor | None, waves: Tensor, adjusted: Tensor | None = None
) -> Tensor:
    """The tokens after these blocks, whose activations are computed twice where the denoiser is set so."""
    is_twice = torch.is_grad_enabled() and denoiser.gradient_checkpointing
    for block in blocks:
        if is_twice:
            tokens = denoiser._gradient_checkpointing_func(block, tokens, mask, waves, adjusted)
        else:
            tokens = block(tokens, mask, waves, adjusted)
    return tokens
