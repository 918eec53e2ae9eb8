"""The memory that Z-Image's denoiser takes in training, computed from its config. Needs no torch.

Counted in numbers of the denoiser's precision for each token of a picture, as autograd keeps them; what norms keep in
float32 counts twice. The tokens of the text, at most 512, are left out, and so are the refiners, through which no
gradient goes where only the layers are trained; of them the inputs are kept where blocks are computed twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.families.footprint import Footprint, language_parameters
from lorasmith.families.weights import BaseWeights
from lorasmith.families.zimage.layout import PATCH

NORMS = 6 * 2  # times the width: the inputs of four norms, and of those of queries and keys, in float32
# Times the width: both sums, the inputs of attention and feed-forward, those of the output, q, k, v, q and k before
# their norms, what both parts give.
PLAIN = 12
FEED_FORWARD = 4  # times the inner width: both products, the activation, the gated product


def footprint(weights: BaseWeights) -> Footprint | None:
    """The footprint of a base model; None where its size is not known."""
    if weights.denoiser_parameters is None:
        return None
    text = language_parameters(weights.configs["text_encoder"]) // 2  # 16 bits each, where 32 are reckoned with
    return denoiser_footprint(weights.configs["transformer"], weights.denoiser_parameters, text_parameters=text)


def denoiser_footprint(config: Mapping[str, Any], parameters: int, *, text_parameters: int = 0) -> Footprint:
    """The footprint of a transformer with this config of diffusers and this number of parameters."""
    width, layers, refiners = config.get("dim", 3840), config.get("n_layers", 30), config.get("n_refiner_layers", 2)
    wide = FEED_FORWARD * int(width / 3 * 8)
    block = (NORMS + PLAIN) * width + wide
    kept = {
        "none": layers * block,
        "feed-forward": layers * (block - wide),
        "block": (layers + refiners) * width,
        "offload": 0,
    }
    computed = {"none": block, "feed-forward": max(block, 2 * wide), "block": 2 * block, "offload": 2 * block}
    end = width + 4 * width // config.get("n_heads", 30)  # the last norm, and the positions
    return Footprint(
        parameters=parameters,
        largest_layer=width * int(width / 3 * 8),
        kept={level: (count + end) / PATCH**2 for level, count in kept.items()},
        computed={level: count / PATCH**2 for level, count in computed.items()},
        text_parameters=text_parameters,
    )
