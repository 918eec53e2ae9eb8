"""The memory that Anima's denoiser takes in training, computed from its config. Needs no torch.

Counted in numbers of the denoiser's precision for each token of a picture, as autograd keeps them; what norms keep in
float32 counts twice. Of the 512 tokens of the text a block keeps keys and values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.families.anima.layout import MOST, PATCH
from lorasmith.families.footprint import Footprint, language_parameters
from lorasmith.families.weights import BaseWeights

LAYERS = 3 * 2  # times the width: the input of each of three parts before and after its norm
HEADS = 4 + 3 * 2 + 3 + 2  # q, k, v and q before norms; in float32 three of them; after positions; both outputs
FEED_FORWARD = 2  # times the inner width: the input and the output of the activation
TEXT = 1 + 2 + 1 + 1  # times the width, for each of its tokens: keys before their norm, in float32, behind it; values
NORM = 1  # the last


def footprint(weights: BaseWeights) -> Footprint | None:
    """The footprint of a base model; None where its size is not known."""
    if weights.denoiser_parameters is None:
        return None
    text = language_parameters(weights.configs["text_encoder"]) // 2  # 16 bits each, where 32 are reckoned with
    return denoiser_footprint(weights.configs["transformer"], weights.denoiser_parameters, text_parameters=text)


def denoiser_footprint(config: Mapping[str, Any], parameters: int, *, text_parameters: int = 0) -> Footprint:
    """The footprint of a transformer with this config of diffusers and this number of parameters."""
    width, layers = config["attention_head_dim"] * config["num_attention_heads"], config["num_layers"]
    inside = int(width * config.get("mlp_ratio", 4.0))
    wide = FEED_FORWARD * inside
    block = (LAYERS + HEADS) * width + wide
    kept = {
        "none": layers * block,
        "feed-forward": layers * (block - wide),
        "block": layers * width,
        "offload": 0,
    }
    computed = {"none": block, "feed-forward": max(block, 2 * wide), "block": 2 * block, "offload": 2 * block}
    return Footprint(
        parameters=parameters,
        largest_layer=width * inside,
        kept={level: (count + NORM * width) / PATCH**2 for level, count in kept.items()},
        computed={level: count / PATCH**2 for level, count in computed.items()},
        text_parameters=text_parameters,
        text_pixels=MOST * TEXT * width // block * PATCH**2,
    )
