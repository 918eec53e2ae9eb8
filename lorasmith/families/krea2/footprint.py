"""The memory that Krea 2's denoiser takes in training, computed from its config. Needs no torch.

Counted in numbers of the denoiser's precision for each token of a picture, as autograd keeps them; what norms keep in
float32 counts twice. The tokens of the text, at most 512, are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.families.flow_footprint import (
    Blocks,
    language_parameters,
    qwen_vae_parameters,
    transformer_footprint,
    with_encoders,
)
from lorasmith.families.footprint import Footprint
from lorasmith.families.krea2.layout import taps

NORM = 2  # times the width: the input in float32
ATTENTION = 1 + NORM + 3 + 3  # also: the input, the norm of queries, q, k, v, the outputs, their gate, their product
FEED_FORWARD = 4  # times the inner width: both products, the activation, the gated product
PRODUCTS = 1 + 1 + 1 + 1 + 1  # times the width: queries, their gate, of attention, its output, the last layer
TABLE_WIDTH = 6144


def footprint(configs: Mapping[str, Any], parameters: int) -> Footprint:
    """The footprint of a model with these configs and this number of the denoiser's parameters."""
    return with_encoders(
        denoiser_footprint(configs["transformer"], parameters),
        text_parameters=language_parameters(configs["text_encoder"]["text_config"], layers=max(taps(configs))),
        vae_parameters=qwen_vae_parameters(configs["vae"]),
    )


def denoiser_footprint(config: Mapping[str, Any], parameters: int) -> Footprint:
    """The footprint of a transformer with this config of diffusers and this number of parameters."""
    size = config["attention_head_dim"]
    width, inside = size * config["num_attention_heads"], config["intermediate_size"]
    wide = FEED_FORWARD * inside
    products = PRODUCTS + 2 * (inside + size * config["num_key_value_heads"]) / width
    block = (NORM + ATTENTION) * width + NORM * size * config["num_key_value_heads"] + (NORM + 1) * width + wide
    return transformer_footprint(
        [Blocks(config["num_layers"], block, wide, products)],
        parameters=parameters,
        width=width,
        table_width=TABLE_WIDTH,
        largest_layer=width * inside,
        end=NORM * width,
    )
