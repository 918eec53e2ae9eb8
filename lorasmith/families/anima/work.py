"""Counts the floating-point operations of Anima's denoiser by the sizes of its layers, without running it."""

from __future__ import annotations

import math

from lorasmith.families.forward_work import ForwardWork, LayerWork, Shapes

ONCE = frozenset({"time_embed", "norm1", "norm2", "norm3", "norm_out"})  # layers that see a vector for each picture


def denoiser_work(shapes: Shapes, *, picture: int, text: int) -> ForwardWork:
    """The work for a picture of that many tokens and a text, by diffusers' names of the weights."""
    layers, attention = {}, 0
    for name, shape in shapes.items():
        parts = name.split(".")
        if parts[-1] != "weight" or len(shape) < 2:
            continue
        sees_text = "attn2" in parts and parts[-2] in ("to_k", "to_v")
        positions = text if sees_text else picture if ONCE.isdisjoint(parts) else 1
        layers[name.removesuffix(".weight")] = LayerWork(positions, math.prod(shape), sees_text)
        if parts[-2] == "to_q":
            attention += 4 * picture * (text if "attn2" in parts else picture) * shape[0]
    return ForwardWork(layers, attention)
