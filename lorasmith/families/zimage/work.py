"""Counts the floating-point operations of Z-Image's denoiser by the sizes of its layers, without running it."""

from __future__ import annotations

import math

from lorasmith.families.forward_work import ForwardWork, LayerWork, Shapes
from lorasmith.families.zimage.layout import TOKENS

ONCE = frozenset({"t_embedder", "adaLN_modulation"})  # layers that see a vector for each picture


def denoiser_work(shapes: Shapes, *, picture: int, text: int) -> ForwardWork:
    """The work for a picture and a caption of these numbers of tokens, by diffusers' names of the weights."""
    filled, read = (-(-count // TOKENS) * TOKENS for count in (picture, text))
    layers, attention = {}, 0
    for name, shape in shapes.items():
        parts = name.split(".")
        if parts[-1] != "weight" or len(shape) < 2:
            continue
        sees_text = parts[0] in ("context_refiner", "cap_embedder")
        positions = {
            "all_x_embedder": picture,
            "all_final_layer": picture,
            "noise_refiner": filled,
            "context_refiner": read,
            "cap_embedder": read,
        }.get(parts[0], filled + read)
        positions = positions if ONCE.isdisjoint(parts) else 1
        layers[name.removesuffix(".weight")] = LayerWork(positions, math.prod(shape), sees_text)
        if parts[-2] == "to_q":
            attention += 4 * positions * positions * shape[0]
    return ForwardWork(layers, attention)
