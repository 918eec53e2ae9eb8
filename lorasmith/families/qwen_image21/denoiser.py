"""Qwen-Image 2.1's denoiser, with diffusers' layers and a forward pass of our own for a text and the picture to make.

That of diffusers has the positions of the first example for the whole batch, counted with its padding: a caption gives
another picture beside a longer one. Here each example has its own, so that a batch is its examples alone. Nothing is
read back from the device, so steps can be recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from lorasmith.families.loading import Build, on_meta_device

_BASE = 10_000  # of the wavelengths of positions


def denoiser_builder() -> Build:
    """Imports diffusers; the function that builds a QwenImage21Transformer2DModel."""
    from diffusers import QwenImage21Transformer2DModel
    from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21TemporalTimesteps

    build_empty = on_meta_device(QwenImage21Transformer2DModel)

    def build(config: Mapping[str, Any]) -> nn.Module:
        model: Any = build_empty(config)
        times = model.time_text_embed
        times.time_proj = QwenImage21TemporalTimesteps(times.time_proj.timestep_dim)  # frequencies that files lack
        for block in model.transformer_blocks:
            block.attn.set_processor(TextThenPicture())
        return model

    return build


class TextThenPicture:
    """A processor of diffusers' attention: a text sees what came before it, the picture behind it sees everything."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        rotary_emb: Tensor | None = None,
        segments: Sequence[tuple[int, int, bool]] = (),
        **_unused: None,
    ) -> Tensor:
        """(B, N, C) -> (B, N, C).

        Args:
            attention_mask: (B, 1, 1, N): what the picture sees; padding behind a text is seen by no other token.
            rotary_emb: as `rotations`.
            segments: of the text alone.
        """
        assert rotary_emb is not None
        text = segments[0][1]
        query, key, value = (
            layer(hidden_states).unflatten(-1, (attn.heads, -1)) for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        query = _turned(attn.norm_q(query).to(value.dtype), rotary_emb).transpose(1, 2)
        key = _turned(attn.norm_k(key).to(value.dtype), rotary_emb).transpose(1, 2)
        value = value.transpose(1, 2)
        of_text = scaled_dot_product_attention(query[:, :, :text], key[:, :, :text], value[:, :, :text], is_causal=True)
        of_picture = scaled_dot_product_attention(query[:, :, text:], key, value, attn_mask=attention_mask)
        attended = torch.cat([of_text, of_picture], dim=2).transpose(1, 2).flatten(2)
        result: Tensor = attn.to_out[1](attn.to_out[0](attended))
        return result


def velocity(
    denoiser: Any, tokens: Tensor, timesteps: Tensor, text: Tensor, mask: Tensor, sides: tuple[int, int]
) -> Tensor:
    """The denoiser's output for tokens of pictures, (B, N, C), that are `sides` rows and columns, at levels (B,).

    `text` (B, T, width) is padded behind its end, `mask` (B, T) has what is text.
    """
    longest, examples = text.shape[1], len(tokens)
    states = torch.cat([denoiser.txt_in(text), denoiser.img_in(tokens)], dim=1)
    is_picture = torch.arange(states.shape[1], device=states.device) >= longest
    levels = torch.cat([timesteps, timesteps.new_zeros(1)])  # the text has none: its numbers are those of a picture
    embedded = denoiser.time_text_embed(levels, states)
    inputs = (
        denoiser.modulation(embedded),
        rotations(mask, sides, denoiser.config.axes_dims_rope),
        torch.cat([mask, mask.new_ones(tokens.shape[:2])], dim=1)[:, None, None],
        is_picture,
        *(None, None, None),  # diffusers keeps the text's keys and values of a step there
        [(0, longest, True)],
    )
    twice = torch.is_grad_enabled() and denoiser.gradient_checkpointing
    for block in denoiser.transformer_blocks:
        states = denoiser._gradient_checkpointing_func(block, states, *inputs) if twice else block(states, *inputs)
    output: Tensor = denoiser.proj_out(denoiser.norm_out(states[:, longest:], embedded[:examples]))
    return output


def rotations(mask: Tensor, sides: tuple[int, int], widths: Sequence[int]) -> Tensor:
    """(B, T + rows * columns, 1, half the width of a head): the turn of each pair of numbers, for each token.

    A text's tokens are at (n, n, n). The picture's first coordinate is the length of its text, padding not counted; its
    rows and columns are counted from its middle.
    """
    rows, columns = (
        torch.arange(-(side - side // 2), side // 2, dtype=torch.float32, device=mask.device) for side in sides
    )
    grid = torch.cartesian_prod(rows, columns).expand(len(mask), -1, 2)
    ends = mask.sum(1, dtype=torch.float32)[:, None, None].expand(-1, grid.shape[1], 1)
    words = torch.arange(mask.shape[1], dtype=torch.float32, device=mask.device)[None, :, None]
    positions = torch.cat([words.expand(len(mask), -1, 3), torch.cat([ends, grid], dim=2)], dim=1)
    angles = torch.cat(
        [positions[..., axis, None] * _frequencies(width, mask.device) for axis, width in enumerate(widths)], dim=-1
    )
    return torch.polar(torch.ones_like(angles), angles)[:, :, None]


def _frequencies(width: int, device: torch.device) -> Tensor:
    steps = torch.arange(0, width, 2, dtype=torch.float32, device=device) / width
    return 1 / torch.pow(_BASE, steps)


def _turned(vectors: Tensor, turns: Tensor) -> Tensor:
    """(B, N, heads, d), each pair of numbers turned by its angle, in float32: a third of the time of real numbers."""
    pairs = torch.view_as_complex(vectors.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).to(vectors.dtype)
