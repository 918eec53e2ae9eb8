"""The memory that Qwen-Image 2.1's denoiser takes in training, computed from its config. Needs no torch.

Counted in numbers of the denoiser's precision for each token of a picture, as autograd keeps them; what norms and
positions keep in float32 counts twice. The tokens of the text are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.families.footprint import Footprint, language_parameters
from lorasmith.families.weights import BaseWeights

# Times the width: the inputs of both norms, the factors and gates of both halves, the inputs of the four projections
# (three have one), queries and keys in float32 for their norms and as they are before and after them, values, the
# output of attention in pieces and joined, and that of the feed-forward layers.
BLOCK = 19.5
LATENT_PIXELS = 4  # of a token: footprints count in pieces of 8 x 8 pixels, and a token here is 16 x 16
FEED_FORWARD = 4  # times the inner width: both products, the activation, the gated product


def footprint(weights: BaseWeights) -> Footprint | None:
    """The footprint of a base model; None where its size is not known."""
    if weights.denoiser_parameters is None:
        return None
    language = weights.configs["text_encoder"]["text_config"]
    text = language_parameters(language) // 2  # 16 bits each, where 32 are reckoned with
    return denoiser_footprint(weights.configs["transformer"], weights.denoiser_parameters, text_parameters=text)


def denoiser_footprint(config: Mapping[str, Any], parameters: int, *, text_parameters: int = 0) -> Footprint:
    """The footprint of a transformer with this config of diffusers and this number of parameters."""
    width, layers = config["attention_head_dim"] * config["num_attention_heads"], config["num_layers"]
    inside = width * config.get("mlp_ratio", 3)
    wide = FEED_FORWARD * inside
    block = BLOCK * width + wide
    kept = {
        "none": layers * block,
        "feed-forward": layers * (block - wide),
        "block": (layers + 1) * width,
        "offload": width,
    }
    computed = {"none": block, "feed-forward": max(block, 2 * wide), "block": 2 * block, "offload": 2 * block}
    return Footprint(
        parameters=parameters,
        largest_layer=width * max(inside, 4 * width),  # 4: that of the levels
        kept={level: count / LATENT_PIXELS for level, count in kept.items()},
        computed={level: count / LATENT_PIXELS for level, count in computed.items()},
        text_parameters=text_parameters,
    )
