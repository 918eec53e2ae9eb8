"""The memory that FLUX.1's denoiser takes in training, computed from its config. Needs no torch.

Counted in numbers of the denoiser's precision for each token, as autograd keeps them; what norms keep in float32 counts
twice. The tokens of a text, always as many, take as much as those of a picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.families.flux1.layout import CLIP, LENGTH, PATCH, T5
from lorasmith.families.footprint import Footprint
from lorasmith.families.weights import BaseWeights

INNER = 4  # times the width: the inner width of a feed-forward layer
ATTENTION = 10  # times the width: the input, its norm, the norms of queries and keys in float32, q, k, v, the outputs
FEED_FORWARD = 2 * INNER  # times the width: the wide layer and its activation
BESIDE = 2  # times the width: the input of the second norm and of the feed-forward layer
SINGLE = 10 + 2 * INNER + 1  # times the width: the same in a block of one stream, with the joined output
HEAD = 6  # for each head: float32 sums of the norms and of the attention
_MODULATION = 6  # times the width: the outputs of the widest layer


def footprint(weights: BaseWeights) -> Footprint | None:
    """The footprint of a base model; None where its size is not known."""
    if weights.denoiser_parameters is None:
        return None
    text = (_clip_parameters(weights.configs[CLIP]) + _t5_parameters(weights.configs[T5])) // 2
    return denoiser_footprint(weights.configs["transformer"], weights.denoiser_parameters, text_parameters=text)


def denoiser_footprint(config: Mapping[str, Any], parameters: int, *, text_parameters: int = 0) -> Footprint:
    """The footprint of a transformer with this config of diffusers and this number of parameters."""
    heads = config["num_attention_heads"]
    width = heads * config["attention_head_dim"]
    doubles, singles = config["num_layers"], config["num_single_layers"]
    wide = FEED_FORWARD * width
    double = (ATTENTION + BESIDE) * width + wide + HEAD * heads
    single = SINGLE * width + HEAD * heads
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
        largest_layer=_MODULATION * width**2,
        kept={level: (count + width) / PATCH**2 for level, count in kept.items()},  # and the last norm
        computed={level: count / PATCH**2 for level, count in computed.items()},
        text_parameters=text_parameters,
        text_pixels=LENGTH * PATCH**2,
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
