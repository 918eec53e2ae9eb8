"""The memory that Z-Image's denoiser takes in training, computed from its config. Needs no torch.

Counted in numbers of the denoiser's precision for each token of a picture, as autograd keeps them; what norms keep in
float32 counts twice. The tokens of the text, at most 512, are left out, and so are the refiners, through which no
gradient goes where only the layers are trained; of them the inputs are kept where blocks are computed twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.families.flow_footprint import (
    Blocks,
    language_parameters,
    transformer_footprint,
    with_encoders,
)
from lorasmith.families.footprint import Footprint, kl_parameters
from lorasmith.families.zimage.layout import LAYERS_BEHIND

NORMS = 6 * 2  # times the width: the inputs of four norms, and of those of queries and keys, in float32
# Times the width: both sums, the inputs of attention and feed-forward, those of the output, q, k, v, q and k before
# their norms, what both parts give.
PLAIN = 12
FEED_FORWARD = 4  # times the inner width: both products, the activation, the gated product
ATTENTION_PRODUCTS = 3 + 1 + 1  # times the width: q, k, v, of attention, its output
TABLE_WIDTH = 3840


def footprint(configs: Mapping[str, Any], parameters: int) -> Footprint:
    """The footprint of a model with these configs and this number of the denoiser's parameters."""
    text = configs["text_encoder"]
    return with_encoders(
        denoiser_footprint(configs["transformer"], parameters),
        text_parameters=language_parameters(text, layers=text["num_hidden_layers"] - LAYERS_BEHIND),
        vae_parameters=kl_parameters(configs["vae"]),
    )


def denoiser_footprint(config: Mapping[str, Any], parameters: int) -> Footprint:
    """The footprint of a transformer with this config of diffusers and this number of parameters."""
    width, inside = config.get("dim", 3840), int(config.get("dim", 3840) / 3 * 8)
    layers, refiners = config.get("n_layers", 30), config.get("n_refiner_layers", 2)
    wide = FEED_FORWARD * inside
    products = ATTENTION_PRODUCTS + 2 * inside / width + 1
    return transformer_footprint(
        [Blocks(layers, (NORMS + PLAIN) * width + wide, wide, products), Blocks(refiners, 0, results=0)],
        parameters=parameters,
        width=width,
        table_width=TABLE_WIDTH,
        largest_layer=width * inside,
        end=width + 4 * width // config.get("n_heads", 30),  # the last norm, and the positions
    )
