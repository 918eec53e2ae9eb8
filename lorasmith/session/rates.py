"""Learning rates by group: a component, a block of it, and the side of the pairs that LoRA+ trains faster.

Needs no torch: a start is checked with a family's table of names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from lorasmith.config import AdapterConfig, OptimizerConfig
from lorasmith.errors import ConfigError
from lorasmith.session.layers import (
    by_block,
    chosen_layers,
    component_of,
    is_inside,
    named_blocks,
    published_layers,
    values_by_block,
)

PLUS_KINDS = frozenset({"lora", "dora"})
"""Kinds of adapters that have the matrices LoRA+ is about."""

_BLOCK, _UP = "@", "+"  # "denoiser@down_blocks.1+lora_up"
_SUFFIX = "lora_up"


def group_of(config: OptimizerConfig, targets: Collection[str]) -> Callable[[str, str], str]:
    """The learning-rate group of a tensor, given its target and its suffix: the component alone where all of it has
    the same rate."""
    blocks = values_by_block({block: block for block in config.block_lrs}, targets)

    def group(target: str, suffix: str) -> str:
        name = component_of(target)
        up = f"{_UP}{_SUFFIX}" if suffix == _SUFFIX and config.up_ratio(name) != 1.0 else ""
        return f"{name}{_BLOCK}{blocks[target]}{up}" if target in blocks else f"{name}{up}"

    return group


def base_lrs(config: OptimizerConfig, groups: Iterable[str], text_encoders: Sequence[str]) -> dict[str, float]:
    """The learning rate of each of these groups, without the schedule's factor. `text_encoders`: all of the
    family's, in order."""
    rates = dict(zip(text_encoders, config.resolved_text_encoder_lr(len(text_encoders)), strict=True))
    found = {}
    for group in groups:
        rest, _, up = group.partition(_UP)
        component, _, block = rest.partition(_BLOCK)
        rate = rates.get(component, config.lr) * config.block_lrs.get(block, 1.0)
        found[group] = rate * config.up_ratio(component) if up else rate
    return found


def components_of(groups: Iterable[str]) -> list[str]:
    """The components that have groups, each once."""
    return list(dict.fromkeys(group.partition(_UP)[0].partition(_BLOCK)[0] for group in groups))


def check_rates_of_blocks(
    config: OptimizerConfig, adapter: AdapterConfig, family: str, depths: Mapping[str, int] | None = None
) -> None:
    """Refuses the rate of a block that the family's published model does not have, or of which no layer is trained;
    `depths` as in `published_layers`.

    Raises:
        ConfigError: `block_unknown`, `block_lr_unused`; as `chosen_layers`.
    """
    layers = published_layers(family, with_text_encoders=True, depths=depths)
    trainable = published_layers(family, with_text_encoders=adapter.trains_text_encoder, depths=depths)
    trained = chosen_layers(adapter, family, trainable)
    for block in config.block_lrs:
        if not any(is_inside(block, name) for name in layers):
            raise ConfigError("block_unknown", block=block, **named_blocks(layers))
        if not any(is_inside(block, name) for name in trained):
            raise ConfigError("block_lr_unused", block=block)


def lr_network_args(config: OptimizerConfig, published: Collection[str], trained: Collection[str]) -> dict[str, str]:
    """The settings of rates as sd-scripts writes them in ss_network_args; `block_lr` is this program's own."""
    args: dict[str, str] = {}
    if config.block_lrs:
        args["block_lr"] = ",".join(f"{block}={factor}" for block, factor in config.block_lrs.items())
        factors = dict.fromkeys(trained, 1.0) | values_by_block(config.block_lrs, trained)
        of_blocks = by_block(published, factors, untrained=0.0)
        if of_blocks is not None:
            weights = of_blocks[1:-1] if len(of_blocks) == 23 else of_blocks  # SDXL: without embeddings and output
            ends = (9, 12) if len(weights) == 21 else (12, 13)
            for name, part in (("down", slice(ends[0])), ("mid", slice(*ends)), ("up", slice(ends[1], None))):
                args[f"{name}_lr_weight"] = ",".join(map(str, weights[part]))
    for name in ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio"):
        if getattr(config, name) is not None:
            args[name] = str(getattr(config, name))
    return args
