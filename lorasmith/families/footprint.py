"""The memory that a denoiser takes in training, as far as it follows from the shapes of its layers. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Footprint:
    """Sizes of a denoiser, in numbers (not bytes)."""

    parameters: int
    largest_layer: int  # weights
    kept: Mapping[str, float]  # activations for each latent pixel that a forward pass keeps, by level of checkpointing
    computed: Mapping[str, float]  # more of them while a block is computed, by level
    text_parameters: int  # of all text encoders
