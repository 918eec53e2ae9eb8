"""The share of the examples that training shows at each level of noise, for the plots of plans and reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from lorasmith.data.types import Example
from lorasmith.diffusion.flow import FlowMatching
from lorasmith.diffusion.process import NoiseProcess

BINS = 20
"""Equal parts of the levels from 0, the picture, to 1, the noise."""
_QUANTILES = 2**14


def level_shares(process: NoiseProcess, examples: Sequence[Example], token: int) -> tuple[float, ...]:
    """The share of each bin, by the density and the shifts that the pictures get by their sizes; empty where the
    process has timesteps in place of levels.

    Args:
        process: that of training, as `trained_process` gives it.
        token: pixels of a side of a token, `BaseWeights.size_multiple`.
    """
    if not isinstance(process, FlowMatching):
        return ()
    buckets: Counter[tuple[int, int]] = Counter()
    for example in examples:
        buckets[example.bucket.height, example.bucket.width] += example.repeats
    quantiles = (torch.arange(_QUANTILES, dtype=torch.float64) + 0.5) / _QUANTILES
    patch = getattr(process.training_shift, "patch", 1)
    shares = torch.zeros(BINS, dtype=torch.float64)
    for (height, width), weight in buckets.items():
        shape = (1, 1, height // token * patch, width // token * patch)
        levels = process.timesteps(quantiles, shape)
        shares += weight * torch.histc(levels.double(), BINS, min=0, max=1) / _QUANTILES
    return tuple((shares / buckets.total()).tolist())
