"""Counts the floating-point operations of Krea 2's denoiser by the sizes of its layers, without running it."""

from __future__ import annotations

import math
from typing import NamedTuple

from lorasmith.families.forward_work import ForwardWork, LayerWork, Shapes

ONCE = frozenset({"time_embed", "time_mod_proj"})  # layers that see a vector for each picture


class Sizes(NamedTuple):
    """The inputs of the denoiser for a picture."""

    picture: int  # tokens
    text: int  # tokens
    taps: int  # layers of the text encoder, of whose features a text token consists
    width: int  # of these features


def denoiser_work(shapes: Shapes, sizes: Sizes) -> ForwardWork:
    """The work for a picture, by diffusers' names of the weights."""
    layers, attention = {}, 0
    for name, shape in shapes.items():
        parts = name.split(".")
        if parts[-1] != "weight" or len(shape) < 2:
            continue
        positions, keys = _positions(parts, sizes)
        sees_text = parts[0] in ("text_fusion", "txt_in")
        layers[name.removesuffix(".weight")] = LayerWork(positions, math.prod(shape), sees_text)
        if parts[-2] == "to_q":
            attention += 4 * positions * keys * shape[0]
    return ForwardWork(layers, attention)


def _positions(parts: list[str], sizes: Sizes) -> tuple[int, int]:
    """The vectors that a layer computes, and the number that each attends to."""
    if not ONCE.isdisjoint(parts):
        return 1, 0
    if parts[0] == "transformer_blocks":
        return sizes.picture + sizes.text, sizes.picture + sizes.text
    if "layerwise_blocks" in parts:
        return sizes.text * sizes.taps, sizes.taps
    if "projector" in parts:
        return sizes.text * sizes.width, 0
    if parts[0] in ("text_fusion", "txt_in"):
        return sizes.text, sizes.text
    return sizes.picture, 0
