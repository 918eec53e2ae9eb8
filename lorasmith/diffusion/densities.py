"""Densities of the noise that training shows a flow-matching model: which share of the examples gets how much of it.

A density is its quantile function, so that a uniform number gives the noise of an example, and the inverse of that
function. docs/losses.md has the formulas with their sources.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

import torch
from torch import Tensor

_HALVINGS = 60  # of an interval in float64, until nothing is left of it


class Density(Protocol):
    """A distribution of shares of noise in (0, 1)."""

    def shares(self, quantiles: Tensor) -> Tensor:
        """Quantiles in (0, 1) -> shares of noise in [0, 1], increasing."""

    def below(self, share: float) -> float:
        """The part of the examples that have less noise than a share in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every share equally often."""

    def shares(self, quantiles: Tensor) -> Tensor:
        return quantiles

    def below(self, share: float) -> float:
        return share


UNIFORM = Uniform()


@dataclass(frozen=True, slots=True)
class LogitNormal:
    """The sigmoid of normal numbers (Esser et al. 2024, section 3.1): most examples around the middle."""

    mean: float = 0.0
    deviation: float = 1.0

    def shares(self, quantiles: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.deviation * torch.special.ndtri(quantiles))

    def below(self, share: float) -> float:
        if share in (0, 1):
            return float(share)
        return NormalDist(self.mean, self.deviation).cdf(math.log(share / (1 - share)))


@dataclass(frozen=True, slots=True)
class Mode:
    """Heavier in the middle or at both ends, and nowhere zero (Esser et al. 2024, equation 20): their f_mode(1 - u)."""

    scale: float = 1.29  # -1 to 2 / (pi - 2), where it is monotonic; 0: uniform

    def shares(self, quantiles: Tensor) -> Tensor:
        bent = torch.sin(quantiles * (math.pi / 2)).square()
        return quantiles - self.scale * (bent - quantiles)

    def below(self, share: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if middle - self.scale * (math.sin(math.pi / 2 * middle) ** 2 - middle) < share:
                low = middle
            else:
                high = middle
        return (low + high) / 2


@dataclass(frozen=True, slots=True)
class CosMap:
    """The log signal-to-noise ratios of the cosine schedule (Esser et al. 2024, equation 21)."""

    def shares(self, quantiles: Tensor) -> Tensor:
        return 1 - 1 / (torch.tan(quantiles * (math.pi / 2)) + 1)

    def below(self, share: float) -> float:
        return 2 / math.pi * math.atan2(share, 1 - share)
