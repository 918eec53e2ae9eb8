"""The memory that Anima's denoiser takes in training, computed from its config. Needs no torch.

Counted in numbers of the denoiser's precision for each token of a picture, as autograd keeps them; what norms keep in
float32 counts twice. Of the 512 tokens of the text a block keeps keys and values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.families.anima.layout import MOST
from lorasmith.families.flow_footprint import (
    PIECES,
    Blocks,
    language_parameters,
    qwen_vae_parameters,
    transformer_footprint,
    with_encoders,
)
from lorasmith.families.footprint import Footprint

LAYERS = 3 * 2  # times the width: the input of each of three parts before and after its norm
HEADS = 4 + 3 * 2 + 3 + 2  # q, k, v and q before norms; in float32 three of them; after positions; both outputs
FEED_FORWARD = 2  # times the inner width: the input and the output of the activation
PRODUCTS = 3 + 1 + 1 + 1 + 1 + 1 + 1  # times the width: q, k, v, of attention, its output; q again and so on; the last
TEXT = 1 + 2 + 1 + 1  # times the width, for each of its tokens: keys before their norm, in float32, behind it; values
NORM = 1  # the last
TABLE_WIDTH = 2048


def footprint(configs: Mapping[str, Any], parameters: int) -> Footprint:
    """The footprint of a model with these configs and this number of the denoiser's parameters."""
    return with_encoders(
        denoiser_footprint(configs["transformer"], parameters),
        text_parameters=language_parameters(configs["text_encoder"]),
        vae_parameters=qwen_vae_parameters(configs["vae"]),
    )


def denoiser_footprint(config: Mapping[str, Any], parameters: int) -> Footprint:
    """The footprint of a transformer with this config of diffusers and this number of parameters."""
    width = config["attention_head_dim"] * config["num_attention_heads"]
    inside = int(width * config.get("mlp_ratio", 4.0))
    wide = FEED_FORWARD * inside
    block = (LAYERS + HEADS) * width + wide
    return transformer_footprint(
        [Blocks(config["num_layers"], block, wide, PRODUCTS + inside / width, results=3)],
        parameters=parameters,
        width=width,
        table_width=TABLE_WIDTH,
        largest_layer=width * inside,
        end=NORM * width,
        text_pixels=MOST * TEXT * width // block * PIECES,
    )
