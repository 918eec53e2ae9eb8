"""The memory that a denoiser takes in training, as far as it follows from the shapes of its layers. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Footprint:
    """Sizes of a denoiser, in numbers (not bytes)."""

    parameters: int
    largest_layer: int  # weights
    kept: Mapping[str, float]  # activations for 8 x 8 pixels that a forward pass keeps, by level of checkpointing
    computed: Mapping[str, float]  # more of them while a block is computed, by level
    text_parameters: int  # of all text encoders
    text_pixels: int = 0  # pieces of 8 x 8 pixels that take as much as the text of an example; 0: it is left out


def language_parameters(config: Mapping[str, Any]) -> int:
    """About the parameters of a language model of Qwen, by its config."""
    width, size = config["hidden_size"], config["head_dim"]
    attention = 2 * width * size * (config["num_attention_heads"] + config["num_key_value_heads"])
    layer = attention + 3 * width * config["intermediate_size"]
    return int(config["vocab_size"] * width + config["num_hidden_layers"] * layer)
