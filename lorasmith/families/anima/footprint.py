"""The memory that Anima's denoiser takes in training, computed from its config. Needs no torch."""

from __future__ import annotations

from lorasmith.families.footprint import Footprint
from lorasmith.families.weights import BaseWeights


def footprint(weights: BaseWeights) -> Footprint | None:
    return None
