"""The memory that FLUX.2's denoiser takes in training, computed from its config. Needs no torch.

Counted in numbers of the denoiser's precision for each token, as autograd keeps them; what norms keep in float32 counts
twice. The tokens of a text, always as many, take as much as those of a picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.families.flow_footprint import (
    PIECES,
    Blocks,
    language_parameters,
    transformer_footprint,
    with_encoders,
)
from lorasmith.families.flux2_klein.layout import LAYERS, LENGTH
from lorasmith.families.footprint import Footprint, kl_parameters

INNER = 3  # times the width: the inner width of a feed-forward layer
ATTENTION = 10  # times the width: the input, its norm, the norms of queries and keys in float32, q, k, v, the outputs
FEED_FORWARD = 4 * INNER  # times the width: both halves of the wide layer, the activation, the gated product
BESIDE = 2  # times the width: the input of the second norm and of the feed-forward layer
SINGLE = 13  # times the width: as ATTENTION, with the joined output and its two parts
JOINED = 4 * INNER  # times the width: the feed-forward part of a layer that computes both
# Times the width: q, k, v, of attention, its output, both feed-forward layers; those with a joined output.
DOUBLE_PRODUCTS = 3 + 1 + 1 + 2 * INNER + 1
SINGLE_PRODUCTS = 3 + 2 * INNER + 1 + 1
HEAD = 6  # for each head: float32 sums of the norms and of the attention
TABLE_WIDTH = 4096


def footprint(configs: Mapping[str, Any], parameters: int) -> Footprint:
    """The footprint of a model with these configs and this number of the denoiser's parameters."""
    return with_encoders(
        denoiser_footprint(configs["transformer"], parameters),
        text_parameters=language_parameters(configs["text_encoder"], layers=LAYERS),
        vae_parameters=kl_parameters(configs["vae"]),
    )


def denoiser_footprint(config: Mapping[str, Any], parameters: int) -> Footprint:
    """The footprint of a transformer with this config of diffusers and this number of parameters."""
    heads = config["num_attention_heads"]
    width = heads * config["attention_head_dim"]
    wide = FEED_FORWARD * width
    double = (ATTENTION + BESIDE) * width + wide + HEAD * heads
    single = (SINGLE + JOINED) * width + HEAD * heads
    return transformer_footprint(
        [
            Blocks(config["num_layers"], double, wide, products=DOUBLE_PRODUCTS),
            Blocks(config["num_single_layers"], single, products=SINGLE_PRODUCTS),
        ],
        parameters=parameters,
        width=width,
        table_width=TABLE_WIDTH,
        largest_layer=(3 + 2 * INNER) * width**2,
        end=width,  # the last norm
        text_pixels=LENGTH * PIECES,
    )
