"""The memory that FLUX.2's denoiser takes in training, computed from its config. Needs no torch.

Counted in numbers of the denoiser's precision for each token, as autograd keeps them; what norms keep in float32 counts
twice. The tokens of a text, always as many, take as much as those of a picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.families.flux2_klein.layout import LAYERS, LENGTH, PATCH
from lorasmith.families.footprint import Footprint, language_parameters
from lorasmith.families.weights import BaseWeights

INNER = 3  # times the width: the inner width of a feed-forward layer
ATTENTION = 10  # times the width: the input, its norm, the norms of queries and keys in float32, q, k, v, the outputs
FEED_FORWARD = 4 * INNER  # times the width: both halves of the wide layer, the activation, the gated product
BESIDE = 2  # times the width: the input of the second norm and of the feed-forward layer
SINGLE = 13  # times the width: as ATTENTION, with the joined output and its two parts
JOINED = 4 * INNER  # times the width: the feed-forward part of a layer that computes both
HEAD = 6  # for each head: float32 sums of the norms and of the attention


def footprint(weights: BaseWeights) -> Footprint | None:
    """The footprint of a base model; None where its size is not known."""
    if weights.denoiser_parameters is None:
        return None
    loaded = {**weights.configs["text_encoder"], "num_hidden_layers": LAYERS}
    text = language_parameters(loaded) // 2  # 16 bits each, where 32 are reckoned with
    return denoiser_footprint(weights.configs["transformer"], weights.denoiser_parameters, text_parameters=text)


def denoiser_footprint(config: Mapping[str, Any], parameters: int, *, text_parameters: int = 0) -> Footprint:
    """The footprint of a transformer with this config of diffusers and this number of parameters."""
    heads = config["num_attention_heads"]
    width = heads * config["attention_head_dim"]
    doubles, singles = config["num_layers"], config["num_single_layers"]
    wide = FEED_FORWARD * width
    double = (ATTENTION + BESIDE) * width + wide + HEAD * heads
    single = (SINGLE + JOINED) * width + HEAD * heads
    kept = {
        "none": doubles * double + singles * single,
        "feed-forward": doubles * (double - wide) + singles * single,
        "block": (doubles + singles) * width,
        "offload": 0,
    }
    block = max(double, single)
    computed = {"none": block, "feed-forward": block, "block": 2 * block, "offload": 2 * block}
    return Footprint(
        parameters=parameters,
        largest_layer=(3 + 2 * INNER) * width**2,
        kept={level: (count + width) / PATCH**2 for level, count in kept.items()},  # and the last norm
        computed={level: count / PATCH**2 for level, count in computed.items()},
        text_parameters=text_parameters,
        text_pixels=LENGTH * PATCH**2,
    )
