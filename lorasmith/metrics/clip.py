"""The semantic loss: 1 - cosine of CLIP image embeddings, the distance of two pictures in what they show.

The model is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate, normalize

WHITE = 255


class ImageEncoder(Protocol):
    """An image tower with its projection."""

    preparation: Preparation

    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) float32 on the CPU, prepared -> (B, D) float32 on the CPU."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """The preparation of a picture for an encoder, in the order of the fields; a step that is None is left out."""

    shortest_edge: int | None  # scaled to it, in its own proportions …
    size: tuple[int, int] | None  # … or to just this, height and width
    resample: Literal["bicubic", "bilinear"]
    crop: tuple[int, int] | None  # height and width, of the middle
    mean: tuple[float, float, float]  # of values in 0..1, by channel
    deviation: tuple[float, float, float]


def embeddings(encoder: ImageEncoder, pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Pictures (H, W, 3) of any sizes -> (B, D), each of length 1. Pictures are embedded singly, so that none depends
    on its neighbours."""
    rows = []
    for picture in pictures:
        with torch.no_grad():
            row = encoder(prepared(picture, encoder.preparation)[None])
        rows.append(normalize(row.double(), dim=-1))
    return torch.cat(rows)


def semantic_losses(embedded: Tensor, others: Tensor) -> list[float]:
    """1 - cosine of each row and its other, in [0, 2], given rows of length 1 as `embeddings` returns them. NaN where a
    row has a NaN."""
    return [1.0 - min(float(row @ other), 1.0) for row, other in zip(embedded, others, strict=True)]


def prepared(picture: NDArray[np.uint8], how: Preparation) -> Tensor:
    """(H, W, 3) -> (3, H', W') float32 as the encoder expects it, with black borders if smaller than the crop."""
    pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).float()
    height, width = pixels.shape[1:]
    size = how.size
    if how.shortest_edge is not None:
        shortest, edge = min(height, width), how.shortest_edge
        size = (edge * height // shortest, edge * width // shortest)
    if size is not None and size != (height, width):
        scaled = interpolate(pixels[None], size=size, mode=how.resample, antialias=True, align_corners=False)
        pixels = scaled[0].round().clamp(0, WHITE)  # whole numbers, as if the scaled picture were a file
    if how.crop is not None:
        pixels = _middle(pixels, *how.crop)
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (how.mean, how.deviation))
    return (pixels / WHITE - mean) / deviation


def _middle(pixels: Tensor, height: int, width: int) -> Tensor:
    cut = torch.zeros(3, height, width)
    top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
    inside = pixels[:, max(top, 0) : max(top, 0) + height, max(left, 0) : max(left, 0) + width]
    down, across = max(-top, 0), max(-left, 0)
    cut[:, down : down + inside.shape[1], across : across + inside.shape[2]] = inside
    return cut
