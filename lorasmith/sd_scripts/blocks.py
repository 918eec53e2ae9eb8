"""The blocks of a U-Net in `--network_args`: their ranks, and their rates as multiples of the learning rate.

sd-scripts counts the blocks as the published code does: 12 down, 1 in the middle and 12 up in SD 1.x and 2.x; an
embedding, 9, 3, 9 and the output in SDXL.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from lorasmith.config import AdapterConfig
from lorasmith.errors import ConfigError
from lorasmith.sd_scripts.pairs import number, whole
from lorasmith.session.layers import chosen_layers, is_inside, published_layers

ARG = "--network_args"
LEVELS = {"sd15": 12, "sdxl": 9}
FAMILY_OF = {25: "sd15", 23: "sdxl"}  # by the number of blocks; SD 2.x has those of SD 1.x
RATES = ("down_lr_weight", "mid_lr_weight", "up_lr_weight")
THRESHOLD = "block_lr_zero_threshold"


def block_ranks(text: str, adapter: AdapterConfig) -> dict[str, int]:
    """The ranks of `block_dims` by the name of the block, without blocks where nothing has this rank.

    Raises:
        ConfigError: `sd_block_dims`, another number of ranks than a model has blocks; `sd_pair_no_number`.
    """
    ranks = [whole(part, argument=ARG, key="block_dims") for part in text.split(",")]
    if len(ranks) not in FAMILY_OF:
        raise ConfigError("sd_block_dims", given=len(ranks))
    family = FAMILY_OF[len(ranks)]
    found = _of_blocks(ranks, family, adapter, with_convolutions=False)
    return {name: int(rank) for name, rank in found.items()}


def block_rates(texts: Mapping[str, str], adapter: AdapterConfig, *, is_sdxl: bool) -> dict[str, float]:
    """The multiples of the learning rate by the name of the block, without those of 1; 0 leaves a block out.

    Raises:
        ConfigError: `sd_block_weights`, neither numbers nor the name of a curve, or too many numbers.
    """
    family = "sdxl" if is_sdxl else "sd15"
    levels = LEVELS[family]
    down, middle, up = (
        _weights(texts.get(key, ""), levels if key != "mid_lr_weight" else (3 if is_sdxl else 1), key) for key in RATES
    )
    least = number(texts.get(THRESHOLD) or "0", argument=ARG, key=THRESHOLD)
    weights = [
        weight if weight > least or not texts.get(key) else 0.0
        for key, side in zip(RATES, (down, middle, up), strict=True)
        for weight in side
    ]
    if is_sdxl:
        weights = [1.0, *weights, 1.0]
    found = _of_blocks(weights, family, adapter, with_convolutions=True)
    return {name: weight for name, weight in found.items() if weight != 1}


def _weights(text: str, count: int, key: str) -> list[float]:
    """Numbers, filled up with 1, or a curve over the blocks, as in `sine+.5`."""
    if not text:
        return [1.0] * count
    name, _, base = text.partition("+")
    if name in CURVES and count > 1:
        start = number(base or "0", argument=ARG, key=key)
        return [CURVES[name](place / (count - 1)) + start for place in range(count)]
    parts = text.split(",")
    if len(parts) > count or name.isalpha():
        raise ConfigError("sd_block_weights", key=key, value=text, count=count, curves=list(CURVES))
    given = [number(part or "0", argument=ARG, key=key) for part in parts]
    return given + [1.0] * (count - len(given))


CURVES: dict[str, Callable[[float], float]] = {
    "cosine": lambda place: math.sin(math.pi * (1 - place) / 2),
    "sine": lambda place: math.sin(math.pi * place / 2),
    "linear": lambda place: place,
    "reverse_linear": lambda place: 1 - place,
    "zeros": lambda _: 0.0,
}
"""Name -> the weight of a block, from the first (0) to the last (1) of a side."""


def _names(family: str) -> list[str]:
    """The names of the blocks in sd-scripts' order."""
    levels = LEVELS[family]
    middle = ["middle_block"] if family == "sd15" else [f"middle_block.{place}" for place in range(3)]
    sides = [[f"{side}.{place}" for place in range(levels)] for side in ("input_blocks", "output_blocks")]
    names = [*sides[0], *middle, *sides[1]]
    return names if family == "sd15" else ["time_embed", *names, "out"]


def _of_blocks(
    values: Sequence[float], family: str, adapter: AdapterConfig, *, with_convolutions: bool
) -> dict[str, float]:
    """The values of the blocks that have trained layers; convolutions have a rank of their own."""
    layers = published_layers(family, with_text_encoders=False)
    trained = chosen_layers(adapter, family, layers)
    chosen = [name for name in trained if with_convolutions or not layers[name].has_neighbours]
    by_name = dict(zip(_names(family), values, strict=True))
    return {block: value for block, value in by_name.items() if any(is_inside(block, name) for name in chosen)}
