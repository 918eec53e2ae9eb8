"""The memory that a transformer of flow matching takes in training: what the families' footprints have in common.

A family counts the numbers of the denoiser's precision that autograd keeps for each token; what norms keep in float32
counts twice. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from lorasmith.families.footprint import Footprint

PIECES = 4  # of 8 x 8 pixels in a token, which is 16 x 16 in every family
_QWEN_WIDTH, _QWEN_PARAMETERS = 96, 127_000_000  # the least channels of the VAE of Qwen-Image, and its parameters


class Blocks(NamedTuple):
    """The blocks of one kind."""

    number: int
    inside: float  # numbers that each keeps for a token
    wide: float = 0  # of which in feed-forward layers
    products: float = 0  # times the width: the results of all layers and of attention
    results: float = 2  # times the width: of attention and of the last layer alone


def transformer_footprint(
    blocks: Sequence[Blocks],
    *,
    parameters: int,
    width: int,
    table_width: int,
    largest_layer: int,
    end: float,
    text_pixels: int = 0,
) -> Footprint:
    """The footprint of a transformer whose blocks are called one after the other.

    Args:
        table_width: the width of the model that the family's table of layers describes.
        end: numbers for a token that are kept outside of blocks.
    """
    inside = sum(kind.number * kind.inside for kind in blocks)
    wide = sum(kind.number * kind.wide for kind in blocks)
    entering = width * sum(kind.number for kind in blocks)
    kept = {
        "none": inside,
        "feed-forward": inside - wide,
        "elementwise": entering + width * sum(kind.number * kind.products for kind in blocks),
        "selective": entering + width * sum(kind.number * kind.results for kind in blocks),
        "block": entering,
        "offload": 0,
    }
    block, widest = max(kind.inside for kind in blocks), max(kind.wide for kind in blocks)
    twice = dict.fromkeys(("elementwise", "selective", "block", "offload"), 2 * block)
    computed = {"none": block, "feed-forward": max(block, 2 * widest), **twice}
    return Footprint(
        parameters=parameters,
        largest_layer=largest_layer,
        kept={level: (count + end) / PIECES for level, count in kept.items()},
        computed={level: count / PIECES for level, count in computed.items()},
        text_pixels=text_pixels,
        relative_width=width / table_width,
    )


def with_encoders(denoiser: Footprint, *, text_parameters: int, vae_parameters: int) -> Footprint:
    """The footprint of a whole model. Its text encoders are loaded in 16 bits."""
    return replace(denoiser, text_parameters=text_parameters, text_bytes=2, vae_parameters=vae_parameters)


def language_parameters(config: Mapping[str, Any], *, layers: int | None = None) -> int:
    """About the parameters of a language model of Qwen, by its config. `layers`: of which are loaded; None: all."""
    layers = config["num_hidden_layers"] if layers is None else layers
    width, size = config["hidden_size"], config["head_dim"]
    attention = 2 * width * size * (config["num_attention_heads"] + config["num_key_value_heads"])
    layer = attention + 3 * width * config["intermediate_size"]
    return int(config["vocab_size"] * width + layers * layer)


def qwen_vae_parameters(config: Mapping[str, Any], published: int = _QWEN_PARAMETERS) -> int:
    """About the parameters of a VAE as Qwen-Image has it, by its config and the number of the published VAE."""
    return int(published * (config.get("base_dim", _QWEN_WIDTH) / _QWEN_WIDTH) ** 2)
