"""Counts the floating-point operations of FLUX.2's denoiser by the sizes of its layers, without running it."""

from __future__ import annotations

import math

from lorasmith.families.forward_work import ForwardWork, LayerWork, Shapes

_ONCE = ("time_guidance_embed.", "double_stream_modulation_", "single_stream_modulation.", "norm_out.")
_TEXT = (".to_added_qkv.", ".to_add_out.", ".ff_context.")
"""Parts of names: layers that see a vector for each picture, and layers that see the text alone."""


def denoiser_work(shapes: Shapes, *, picture: int, text: int) -> ForwardWork:
    """The work for that many tokens, by the names of the weights in the loaded denoiser."""
    layers, attention = {}, 0
    for name, shape in shapes.items():
        if not name.endswith(".weight") or len(shape) < 2:
            continue
        is_text = name.startswith("context_embedder.")
        if name.startswith(_ONCE):
            positions = 1
        elif name.startswith("single_transformer_blocks."):
            positions = picture + text
        else:
            positions = text if is_text or any(part in name for part in _TEXT) else picture
        layers[name.removesuffix(".weight")] = LayerWork(positions, math.prod(shape), is_text)
        if name.endswith((".attn.to_out.0.weight", ".attn.to_out.weight")):  # once in every block
            attention += 4 * (picture + text) ** 2 * shape[0]
    return ForwardWork(layers, attention)
