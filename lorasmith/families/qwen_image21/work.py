"""Counts the floating-point operations of Qwen-Image 2.1's denoiser by the sizes of its layers, without running it."""

from __future__ import annotations

import math

from lorasmith.families.forward_work import ForwardWork, LayerWork, Shapes

_TIMES = 2  # vectors that the layers of the level see: the picture's, and the 0 of the text


def denoiser_work(shapes: Shapes, *, picture: int, text: int) -> ForwardWork:
    """The work for a picture and its text of that many tokens, by diffusers' names of the weights."""
    counts = {
        "transformer_blocks": picture + text,
        "txt_in": text,
        "time_text_embed": _TIMES,
        "modulation": _TIMES,
        "norm_out": 1,
    }
    layers, attention = {}, 0
    for name, shape in shapes.items():
        part, *_, last = name.split(".")
        if last != "weight" or len(shape) < 2:
            continue
        positions = counts.get(part, picture)
        layers[name.removesuffix(".weight")] = LayerWork(positions, math.prod(shape), part == "txt_in")
        if name.endswith(".to_q.weight"):
            attention += 4 * (text * text + picture * (picture + text)) * shape[0]
    return ForwardWork(layers, attention)
