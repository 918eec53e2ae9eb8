"""The memory that Krea 2's denoiser takes in training, computed from its config. Needs no torch.

Counted in numbers of the denoiser's precision for each token of a picture, as autograd keeps them; what norms keep in
float32 counts twice. The tokens of the text, at most 512, are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.families.footprint import Footprint, language_parameters
from lorasmith.families.krea2.layout import PATCH
from lorasmith.families.weights import BaseWeights

NORM = 2  # times the width: the input in float32
ATTENTION = 1 + NORM + 3 + 3  # also: the input, the norm of queries, q, k, v, the outputs, their gate, their product
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
    size, layers = config["attention_head_dim"], config["num_layers"]
    width, inside = size * config["num_attention_heads"], config["intermediate_size"]
    wide = FEED_FORWARD * inside
    block = (NORM + ATTENTION) * width + NORM * size * config["num_key_value_heads"] + (NORM + 1) * width + wide
    kept = {
        "none": layers * block,
        "feed-forward": layers * (block - wide),
        "block": layers * width,
        "offload": 0,
    }
    computed = {"none": block, "feed-forward": max(block, 2 * wide), "block": 2 * block, "offload": 2 * block}
    end = NORM * width  # the last norm
    return Footprint(
        parameters=parameters,
        largest_layer=width * inside,
        kept={level: (count + end) / PATCH**2 for level, count in kept.items()},
        computed={level: count / PATCH**2 for level, count in computed.items()},
        text_parameters=text_parameters,
    )
