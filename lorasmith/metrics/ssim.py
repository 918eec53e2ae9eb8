"""The visual loss: 1 - SSIM, the distance of two pictures in structure (Wang et al. 2004).

Knows arrays only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]  # (B, H, W, 3)

WINDOW = 7
WHITE = 255


def ssim_losses(pictures: Pictures, others: Pictures) -> list[float]:
    """1 - SSIM of each picture and its other, in [0, 2]; 0 for equal pictures.

    The mean over channels and over all windows of WINDOW x WINDOW equally weighted pixels that lie inside the picture;
    K1 = 0.01, K2 = 0.03, a range of 255, sample covariances. A picture with a side under WINDOW is measured with
    the largest window with odd sides that fits.
    """
    assert pictures.shape == others.shape and pictures.dtype == others.dtype == np.uint8
    fitting = min(WINDOW, *pictures.shape[1:3])
    window = fitting - 1 + fitting % 2
    return [1.0 - _similarity(left, right, window) for left, right in zip(pictures, others, strict=True)]


def _similarity(left: NDArray[np.uint8], right: NDArray[np.uint8], window: int) -> float:
    from skimage.metrics import structural_similarity  # takes a fifth of a second, at a start that no picture needs

    measure: Any = structural_similarity  # untyped
    return float(measure(left, right, win_size=window, channel_axis=-1, data_range=WHITE))
