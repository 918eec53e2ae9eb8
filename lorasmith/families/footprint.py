"""The memory that a denoiser takes in training, as far as it follows from the shapes of its layers. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

VAE_PARAMETERS = 84_000_000
"""Parameters of the VAE of Stable Diffusion; those of FLUX.1 and FLUX.2 have the same layers."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Sizes of a denoiser, in numbers (not bytes)."""

    parameters: int
    largest_layer: int  # weights
    kept: Mapping[str, float]  # activations for 8 x 8 pixels that a forward pass keeps, by level of checkpointing
    computed: Mapping[str, float]  # more of them while a block is computed, by level
    text_parameters: int = 0  # of all text encoders
    text_bytes: int = 4  # of each of them, as they are loaded where no other form is asked for
    text_pixels: int = 0  # pieces of 8 x 8 pixels that take as much as the text of an example; 0: it is left out
    vae_parameters: int = VAE_PARAMETERS
    relative_width: float = 1.0  # of the width that the family's table of layers has
