"""The memory that FLUX.1's denoiser takes in training, computed from its config. Needs no torch.

Counted in numbers of the denoiser's precision for each token, as autograd keeps them; what norms keep in float32 counts
twice. The tokens of a text, always as many, take as much as those of a picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.families.flow_footprint import (
    PIECES,
    Blocks,
    transformer_footprint,
    with_encoders,
)
from lorasmith.families.flux1.layout import CLIP, LENGTH, T5
from lorasmith.families.footprint import Footprint, kl_parameters

INNER = 4  # times the width: the inner width of a feed-forward layer
ATTENTION = 10  # times the width: the input, its norm, the norms of queries and keys in float32, q, k, v, the outputs
FEED_FORWARD = 2 * INNER  # times the width: the wide layer and its activation
BESIDE = 2  # times the width: the input of the second norm and of the feed-forward layer
SINGLE = 10 + 2 * INNER + 1  # times the width: the same in a block of one stream, with the joined output
DOUBLE_PRODUCTS = 3 + 1 + 1 + INNER + 1  # times the width: q, k, v, of attention, its output, both feed-forward layers
SINGLE_PRODUCTS = 3 + 1 + INNER + 1  # times the width: q, k, v, of attention, the wide layer, the joined output
HEAD = 6  # for each head: float32 sums of the norms and of the attention
_MODULATION = 6  # times the width: the outputs of the widest layer
TABLE_WIDTH = 3072


def footprint(configs: Mapping[str, Any], parameters: int) -> Footprint:
    """The footprint of a model with these configs and this number of the denoiser's parameters."""
    return with_encoders(
        denoiser_footprint(configs["transformer"], parameters),
        text_parameters=_clip_parameters(configs[CLIP]) + _t5_parameters(configs[T5]),
        vae_parameters=kl_parameters(configs["vae"]),
    )


def denoiser_footprint(config: Mapping[str, Any], parameters: int) -> Footprint:
    """The footprint of a transformer with this config of diffusers and this number of parameters."""
    heads = config["num_attention_heads"]
    width = heads * config["attention_head_dim"]
    wide = FEED_FORWARD * width
    double = (ATTENTION + BESIDE) * width + wide + HEAD * heads
    single = SINGLE * width + HEAD * heads
    return transformer_footprint(
        [
            Blocks(config["num_layers"], double, wide, products=DOUBLE_PRODUCTS),
            Blocks(config["num_single_layers"], single, products=SINGLE_PRODUCTS),
        ],
        parameters=parameters,
        width=width,
        table_width=TABLE_WIDTH,
        largest_layer=_MODULATION * width**2,
        end=width,  # the last norm
        text_pixels=LENGTH * PIECES,
    )


def _clip_parameters(config: Mapping[str, Any]) -> int:
    width, inside = config["hidden_size"], config["intermediate_size"]
    layer = 4 * width * width + 2 * width * inside
    return int(config["vocab_size"] * width + config["num_hidden_layers"] * layer)


def _t5_parameters(config: Mapping[str, Any]) -> int:
    """About the parameters of T5's encoder; its feed-forward layers are gated."""
    width, inside = config["d_model"], config["num_heads"] * config["d_kv"]
    layer = 4 * width * inside + 3 * width * config["d_ff"]
    return int(config["vocab_size"] * width + config["num_layers"] * layer)
