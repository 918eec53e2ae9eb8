"""The color loss: 1 - correlation of RGB histograms, the distance of two pictures in the amounts of their colours,
wherever in the picture these are.

Knows arrays only.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]  # (B, H, W, 3)

BINS = 8
WHITE = 255


def color_losses(pictures: Pictures, others: Pictures) -> list[float]:
    """1 - r of each picture and its other, in [0, 2]; 0 for the same colours in the same amounts.

    r is Pearson's correlation of the joint histograms h and g over their BINS³ = 512 bins,
    sum((h - mean(h)) (g - mean(g))) / sqrt(sum((h - mean(h))²) sum((g - mean(g))²)).
    NaN where it is not defined: a histogram is perfectly even and the other differs. Sizes may differ.
    """
    assert pictures.dtype == others.dtype == np.uint8
    return [1.0 - _correlation(histogram(left), histogram(right)) for left, right in zip(pictures, others, strict=True)]


def histogram(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(H, W, 3) -> (BINS³,), the share of the pixels in each joint bin of red, green and blue; sums to 1.

    Along each channel the centres of the bins lie at k * 255 / (BINS - 1), and a value is shared between the two
    centres around it, the nearer getting more (linear), so a pixel is shared between 8 bins: a small change of a
    colour is a small change of the histogram, wherever in the range it happens.
    """
    places = picture.reshape(-1, 3).astype(np.float64) * ((BINS - 1) / WHITE)
    below = np.minimum(places.astype(np.int64), BINS - 2)
    above_share = places - below
    counts = np.zeros(BINS**3)
    for corner in range(8):
        index = np.zeros(len(places), dtype=np.int64)
        share = np.ones(len(places))
        for channel in range(3):
            is_above = corner >> channel & 1
            index = index * BINS + below[:, channel] + is_above
            share *= above_share[:, channel] if is_above else 1.0 - above_share[:, channel]
        counts += np.bincount(index, weights=share, minlength=BINS**3)
    return counts / len(places)


def _correlation(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    if np.array_equal(left, right):
        return 1.0
    a, b = left - left.mean(), right - right.mean()
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm > 0 else math.nan
