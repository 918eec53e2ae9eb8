"""Counts the floating-point operations of FLUX.1's denoiser by the sizes of its layers, without running it."""

from __future__ import annotations

import math

from lorasmith.families.forward_work import ForwardWork, LayerWork, Shapes

_ONCE = ("time_text_embed.", "norm_out.")
_TEXT = (".add_q_proj.", ".add_k_proj.", ".add_v_proj.", ".to_add_out.", ".ff_context.")
_MODULATION = (".norm1.linear.", ".norm1_context.linear.", ".norm.linear.")
"""Parts of names: layers that see a vector for each picture, layers that see the text alone, and modulation, which sees
a vector too."""


def denoiser_work(shapes: Shapes, *, picture: int, text: int) -> ForwardWork:
    """The work for that many tokens, by diffusers' names of the weights."""
    layers, attention = {}, 0
    for name, shape in shapes.items():
        if not name.endswith(".weight") or len(shape) < 2:
            continue
        is_text = name.startswith("context_embedder.")
        if name.startswith(_ONCE) or any(part in name for part in _MODULATION):
            positions = 1
        elif name.startswith("single_transformer_blocks."):
            positions = picture + text
        else:
            positions = text if is_text or any(part in name for part in _TEXT) else picture
        layers[name.removesuffix(".weight")] = LayerWork(positions, math.prod(shape), is_text)
        if name.endswith(".attn.to_q.weight"):
            attention += 4 * (picture + text) ** 2 * shape[0]
    return ForwardWork(layers, attention)
