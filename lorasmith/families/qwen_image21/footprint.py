"""The memory that Qwen-Image 2.1's denoiser takes in training, computed from its config. Needs no torch.

Counted in numbers of the denoiser's precision for each token of a picture, as autograd keeps them; what norms and
positions keep in float32 counts twice. The tokens of the text are left out.
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

# Times the width: the inputs of both norms, the factors and gates of both halves, the inputs of the four projections
# (three have one), queries and keys in float32 for their norms and as they are before and after them, values, the
# output of attention in pieces and joined, and that of the feed-forward layers.
BLOCK = 19.5
FEED_FORWARD = 4  # times the inner width: both products, the activation, the gated product
PRODUCTS = 3 + 1 + 1 + 1  # times the width: q, k, v, of attention, its output, the last layer
TABLE_WIDTH = 4096
LEVELS = 4  # times the width: the layer of the noise levels
VAE_PARAMETERS = 338_000_000


def footprint(configs: Mapping[str, Any], parameters: int) -> Footprint:
    """The footprint of a model with these configs and this number of the denoiser's parameters."""
    return with_encoders(
        denoiser_footprint(configs["transformer"], parameters),
        text_parameters=language_parameters(configs["text_encoder"]["text_config"]),
        vae_parameters=qwen_vae_parameters(configs["vae"], VAE_PARAMETERS),
    )


def denoiser_footprint(config: Mapping[str, Any], parameters: int) -> Footprint:
    """The footprint of a transformer with this config of diffusers and this number of parameters."""
    width = config["attention_head_dim"] * config["num_attention_heads"]
    inside = width * config.get("mlp_ratio", 3)
    wide = FEED_FORWARD * inside
    return transformer_footprint(
        [Blocks(config["num_layers"], BLOCK * width + wide, wide, PRODUCTS + 2 * inside / width)],
        parameters=parameters,
        width=width,
        table_width=TABLE_WIDTH,
        largest_layer=width * max(inside, LEVELS * width),
        end=width,
    )
