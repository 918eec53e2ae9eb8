"""The attention of Z-Image with rotations in real numbers: compilers make no code for complex numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class PositionTables(nn.Module):
    """Cosines and sines of diffusers' RopeEmbedder as buffers, on the denoiser's device before they are used."""

    def __init__(self, embedder: Any) -> None:
        super().__init__()
        tables = embedder.precompute_freqs_cis(embedder.axes_dims, embedder.axes_lens, theta=embedder.theta)
        for axis, table in enumerate(tables):
            self.register_buffer(f"axis_{axis}", torch.view_as_real(table), persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        """(tokens, axes) integers -> (tokens, half a head, cosine and sine)."""
        return torch.cat([table[positions[:, axis]] for axis, table in enumerate(self.buffers())], 1)


class RotatedAttention:
    """A processor of diffusers' attention: its own for Z-Image, with what `PositionTables` gives."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        freqs_cis: Tensor | None = None,
    ) -> Tensor:
        """(B, N, C) -> (B, N, C); names are diffusers'. `attention_mask`: (B, N), False where nothing attends to."""
        assert encoder_hidden_states is None and freqs_cis is not None
        parts = (attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states))
        query, key, value = (part.unflatten(-1, (attn.heads, -1)) for part in parts)
        query, key = rotated(attn.norm_q(query), freqs_cis), rotated(attn.norm_k(key), freqs_cis)
        mask = None if attention_mask is None else attention_mask[:, None, None, :]
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        attended = scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
        result: Tensor = attn.to_out[0](attended)
        return result


def rotated(vectors: Tensor, waves: Tensor) -> Tensor:
    """Vectors (B, N, heads, size), each pair of whose numbers is turned by an angle of (B, N, size / 2, cosine and
    sine), in float32."""
    first, second = vectors.to(torch.float32).unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = waves.unsqueeze(2).unbind(-1)
    turned = torch.stack([first * cosine - second * sine, first * sine + second * cosine], -1)
    return turned.flatten(-2).to(vectors.dtype)
