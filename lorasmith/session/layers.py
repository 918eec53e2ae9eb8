"""The layers of a base model that an adapter changes, each with its rank and alpha: a choice by names and sizes.

Needs no torch: a start is checked with a family's table of names, and the worker chooses among the layers of the model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple, TypeVar

from lorasmith.config import AdapterConfig
from lorasmith.errors import ConfigError
from lorasmith.session.name_tables import name_table
from lorasmith.targets import LayerSpec

Number = TypeVar("Number", bound=float)
Value = TypeVar("Value")

PRESETS = {
    "attn-mlp": frozenset({"attn-only", "attn-mlp"}),
    "attn-only": frozenset({"attn-only"}),
    "unet-convblock-only": frozenset({"unet-convblock-only"}),
    "full": frozenset({"attn-only", "attn-mlp", "unet-convblock-only", ""}),
}
"""The layers of a preset, by `Row.preset`; the names are LyCORIS'."""


class LayerSize(NamedTuple):
    """The size of a layer's change."""

    rank: int
    alpha: float


def chosen_layers(config: AdapterConfig, family: str, layers: Mapping[str, LayerSpec]) -> dict[str, LayerSize]:
    """Those of the family's `layers`, by the name of the target, that the adapter changes; in their order.

    Raises:
        ConfigError: `targets_invalid`, no regular expression; `targets_none`, nothing is chosen;
            `text_encoder_without_layers`, no adapter may attach to one of this family; `targets_no_text_encoder`, only
            layers of the denoiser are chosen; `targets_without_output`, a file that diffusers
            would not apply; `conv_rank_unused`; `block_ranks_leave_nothing`.
    """
    if config.trains_text_encoder and all(component_of(name) == "denoiser" for name in layers):
        raise ConfigError("text_encoder_without_layers")
    layers = _of_trained_components(config, layers)
    if config.kind == "dora":  # readers take the magnitudes of a layer with a single output for that output's
        layers = {name: spec for name, spec in layers.items() if spec.outputs > 1}
    if config.layer_sizes:
        return {name: LayerSize(*config.layer_sizes[name]) for name in layers if name in config.layer_sizes}
    ranks = values_by_block(config.block_ranks, layers)
    matching = _matching(config.resolved_targets, family, layers)
    chosen = {name: spec for name, spec in matching.items() if ranks.get(name) != 0}
    if not chosen:
        code = "block_ranks_leave_nothing" if matching else "targets_none"
        raise ConfigError(code, targets=config.resolved_targets)
    if config.trains_text_encoder and all(component_of(name) == "denoiser" for name in chosen):
        raise ConfigError("targets_no_text_encoder", targets=config.resolved_targets)
    _check_attention(config, chosen)
    if config.sets_convolutions and not any(spec.has_neighbours for spec in chosen.values()):
        code = "conv_alpha_unused" if config.conv_rank is None and not config.targets else "conv_rank_unused"
        raise ConfigError(code, targets=config.resolved_targets)
    return {name: _size(config, spec, ranks.get(name, config.rank)) for name, spec in chosen.items()}


def published_layers(
    family: str, *, with_text_encoders: bool, depths: Mapping[str, int] | None = None
) -> dict[str, LayerSpec]:
    """The layers of a family's published model that an adapter may change, by the name of the target.

    `depths`: the numbers of blocks of a model, as in `BaseWeights`. None: those of the deepest.
    """
    rows = [row for row in name_table(family).targets.values() if row.component == "denoiser" or with_text_encoders]
    return {row.target: row.layer for row in rows if not _is_below(row.target, depths or {})}


def _is_below(target: str, depths: Mapping[str, int]) -> bool:
    """Whether a target is in a block that a model of these depths does not have."""
    for blocks, count in depths.items():
        if is_inside(blocks, target):
            number = target.removeprefix(f"{blocks}.").partition(".")[0]
            return int(number) >= count
    return False


def check_blocks(config: AdapterConfig, family: str, depths: Mapping[str, int] | None = None) -> None:
    """Refuses a block that has a rank and no layer in the family's published model; `depths` as in `published_layers`.

    Raises:
        ConfigError: `block_unknown`; `block_text_encoder`, a block of a text encoder that is not trained.
    """
    layers = published_layers(family, with_text_encoders=True, depths=depths)
    for block in config.block_ranks:
        components = {component_of(name) for name in layers if is_inside(block, name)}
        if not components:
            raise ConfigError("block_unknown", block=block, **named_blocks(layers))
        if "denoiser" not in components and not config.trains_text_encoder:
            raise ConfigError("block_text_encoder", block=block)


def check_block_effects(config: AdapterConfig, family: str, depths: Mapping[str, int] | None = None) -> None:
    """Refuses the rank of a block that no chosen layer of the family's published model would have. A rank of 0, which
    leaves layers out, may meet none.

    Raises:
        ConfigError: `block_unused`; `block_of_convolutions`, all chosen layers of the block have the rank of
            `conv_rank`.
    """
    published = published_layers(family, with_text_encoders=config.trains_text_encoder, depths=depths)
    chosen = _matching(config.resolved_targets, family, _of_trained_components(config, published))
    for block, rank in config.block_ranks.items():
        inside = [spec for name, spec in chosen.items() if is_inside(block, name)]
        if rank and chosen and not inside:
            raise ConfigError("block_unused", block=block, targets=config.resolved_targets)
        if rank and inside and config.conv_rank is not None and all(spec.has_neighbours for spec in inside):
            raise ConfigError("block_of_convolutions", block=block)


def _of_trained_components(config: AdapterConfig, layers: Mapping[str, LayerSpec]) -> dict[str, LayerSpec]:
    return {
        name: spec
        for name, spec in layers.items()
        if not (config.text_encoder_only and component_of(name) == "denoiser")
    }


def component_of(name: str) -> str:
    """The component that a target is in."""
    return name.partition(".")[0]


def _matching(targets: str, family: str, layers: Mapping[str, LayerSpec]) -> dict[str, LayerSpec]:
    if targets in PRESETS:
        inside = {row.target for row in name_table(family).targets.values() if row.preset in PRESETS[targets]}
        return {name: spec for name, spec in layers.items() if name in inside}
    try:
        expression = re.compile(targets)
    except re.error as error:
        raise ConfigError("targets_invalid", targets=targets, reason=str(error)) from None
    return {name: spec for name, spec in layers.items() if expression.search(name)}


def _check_attention(config: AdapterConfig, chosen: Mapping[str, LayerSpec]) -> None:
    """Refuses an attention of a text encoder without any of its outputs: diffusers 0.42 recognises a text encoder's
    attention by them, and ends with an error or silently leaves the attention out."""
    inputs, outputs = (
        {component_of(name) for name in chosen if name.endswith(ends)}
        for ends in ((".self_attn.q_proj", ".self_attn.k_proj", ".self_attn.v_proj"), ".self_attn.out_proj")
    )
    if not inputs <= outputs:
        raise ConfigError("targets_without_output", targets=config.resolved_targets)


def _size(config: AdapterConfig, spec: LayerSpec, rank: int) -> LayerSize:
    """Convolutions with neighbours have a rank and an alpha of their own; 1x1 convolutions do not, as in sd-scripts."""
    alpha = config.resolved_alpha
    if spec.has_neighbours:
        rank, alpha = rank if config.conv_rank is None else config.conv_rank, config.resolved_conv_alpha
    return LayerSize(rank, config.alpha_of_readers(alpha, rank))


# -- blocks ----------------------------------------------------------------------------------------


def values_by_block(values: Mapping[str, Value], layers: Collection[str]) -> dict[str, Value]:
    """The value of every layer in one of the blocks, by the smallest block that it is in."""
    inside = {block: [name for name in layers if is_inside(block, name)] for block in values}
    largest_first = sorted(inside, key=lambda block: (-len(inside[block]), block))
    return {name: values[block] for block in largest_first for name in inside[block]}


def is_inside(block: str, name: str) -> bool:
    """Whether a layer is in a block, or is the block: "down_blocks.1", "denoiser.down_blocks.1.attentions.0",
    "text_encoder", "input_blocks.4"."""
    path = name.partition(".")[2]
    return any(f"{known}.".startswith(f"{block}.") for known in (name, path, _original_block(path)) if known)


def named_blocks(layers: Iterable[str]) -> dict[str, str]:
    """The blocks that hold these layers, as fields of a message: the largest, of a list the first and the last
    number ("down_blocks.0-3, mid_block, text_encoder"), and a part of one as an example."""
    numbers: dict[str, set[int]] = {}
    example = ""
    for name in layers:
        component, _, path = name.partition(".")
        paths = [path, _original_block(path)] if component == "denoiser" else [component]
        for parts in (known.split(".") for known in paths if known):
            numbers.setdefault(parts[0], set()).update(int(part) for part in parts[1:2] if part.isdigit())
            if not example and len(parts) > 2 and parts[1] == "0":
                example = ".".join(parts[:3])
    own = sorted(numbers, key=lambda block: (block.startswith("text_encoder"), block in _ORIGINAL_BLOCKS))
    found = [(block, numbers[block]) for block in own]
    shown = [f"{block}.{min(at)}-{max(at)}" if len(at) > 1 else block for block, at in found]
    return {"blocks": ", ".join(shown), "example": example}


_ORIGINAL_BLOCKS = ("input_blocks", "middle_block", "output_blocks")
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.")
_MIDDLE = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}


def _original_block(path: str) -> str:
    """The block of a UNet's layer in the numbering of the published code, by which people know what a block does: each
    level has three. "" for other layers."""
    if path.startswith("mid_block."):
        kind, number = path.split(".")[1:3]
        return f"middle_block.{_MIDDLE.get(f'{kind}.{number}', '')}"
    match = _BLOCK.match(path)
    if match is None:
        return ""
    direction, level, kind, number = match.groups()
    place = 3 * int(level) + (2 if kind.endswith("samplers") else int(number))
    return f"input_blocks.{place + 1}" if direction == "down" else f"output_blocks.{place}"


def by_block(published: Iterable[str], values: Mapping[str, Number], *, untrained: Number) -> list[Number] | None:
    """The ranks or alphas of a UNet's blocks in the order of sd-scripts' `block_dims`, `untrained` for a block that is
    not trained; None where layers of a block differ.

    Args:
        published: the targets of the family's table.
        values: of the layers that are trained, convolutions with neighbours aside, by target.
    """
    has_four_levels = any(_original_block(name.partition(".")[2]) == "output_blocks.11" for name in published)
    numbers = range(12 if has_four_levels else 9)
    middle = ["middle_block"] if has_four_levels else [f"middle_block.{number}" for number in range(3)]
    blocks = (
        [f"input_blocks.{number}" for number in numbers] + middle + [f"output_blocks.{number}" for number in numbers]
    )
    if not has_four_levels:  # SDXL: embeddings and output are counted too
        blocks = ["time_embed", *blocks, "out"]
    found = [{value for name, value in values.items() if is_inside(block, name)} for block in blocks]
    return None if any(len(own) > 1 for own in found) else [next(iter(own), untrained) for own in found]
