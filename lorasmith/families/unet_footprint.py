"""The memory that a UNet of latent diffusion takes in training, computed from its config. Needs no torch.

What autograd keeps grows with the number of pixels, so that all of it is counted in numbers for each latent pixel; the
attention keeps queries, keys, values and outputs, no matrix of pixels by pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from lorasmith.families.footprint import Footprint, kl_parameters

FEED_FORWARD = 16  # times the channels: both halves of the wide layer (8), its gate and its product (4 each)
TRANSFORMER_BLOCK = 12 + FEED_FORWARD  # also: three norms' inputs and outputs, q, k, v, the queries and outputs twice
RESULTS = 3  # times the channels: of both attentions and of the feed-forward layer
PRODUCTS = 14  # times the channels: q, k, v, queries again, both outputs of attention, the wide layer (8)
AROUND_BLOCKS = 3  # times the channels: the norm before them, the projections on both sides
TABLE_WIDTH = 1280  # the widest channels of the models that the tables of layers describe
RESNET = 3  # times its inputs and outputs: a norm, an activation and a convolution each


class _Part(NamedTuple):
    """A resnet, a stack of transformer blocks, a resampling or the output; numbers for each latent pixel."""

    inside: float  # kept of a block that is not computed twice
    feed_forward: float  # of which in feed-forward layers
    entering: float  # the input of a block that is computed twice; 0 where it never is
    results: float = 0.0  # small results inside it, which a second computation may take
    products: float = 0.0  # the results of its other layers
    kept: float = 0.0  # always
    blocks: int = 1


def footprint(configs: Mapping[str, Any], parameters: int) -> Footprint:
    """The footprint of a model with these configs and this number of the denoiser's parameters."""
    text = sum(_text_parameters(config) for name, config in configs.items() if name.startswith("text_encoder"))
    found = unet_footprint(configs["unet"], parameters, text_parameters=text)
    return replace(found, vae_parameters=kl_parameters(configs["vae"]))


def unet_footprint(config: Mapping[str, Any], parameters: int, *, text_parameters: int = 0) -> Footprint:
    """The footprint of a UNet with this config of diffusers and this number of parameters."""
    parts = list(_parts(config))
    kept = sum(part.kept for part in parts)
    everything = kept + sum(part.blocks * part.inside for part in parts)
    wide = max(part.feed_forward for part in parts)
    block = max(part.inside for part in parts)
    entering = sum(part.blocks * part.entering for part in parts)
    results = sum(part.blocks * part.results for part in parts)
    products = sum(part.blocks * part.products for part in parts)
    never_twice = sum(part.blocks * part.inside for part in parts if not part.entering)
    channels = max(config["block_out_channels"])
    return Footprint(
        parameters=parameters,
        largest_layer=9 * 2 * channels * channels,  # the first convolution after a skip connection
        kept={
            "none": everything,
            "elementwise": kept + never_twice + entering + results + products,
            "feed-forward": everything - sum(part.blocks * part.feed_forward for part in parts),
            "selective": kept + never_twice + entering + results,
            "block": kept + never_twice + entering,
            "offload": kept + never_twice,
        },
        text_parameters=text_parameters,
        relative_width=channels / TABLE_WIDTH,
        computed={
            "none": block,
            "feed-forward": max(block, 2 * wide),
            **dict.fromkeys(("elementwise", "selective", "block", "offload"), 2 * block),
        },
    )


def _text_parameters(config: Mapping[str, Any]) -> int:
    """About the parameters of a CLIP text encoder."""
    width, inside = config["hidden_size"], config["intermediate_size"]
    layer = 4 * width * width + 2 * width * inside
    return int(config["vocab_size"] * width + config["num_hidden_layers"] * layer)


def _parts(config: Mapping[str, Any]) -> Iterator[_Part]:
    widths = config["block_out_channels"]
    levels, layers = len(widths), config["layers_per_block"]
    depths = config.get("transformer_layers_per_block", 1)
    depths = [depths] * levels if isinstance(depths, int) else depths
    skips = [(widths[0], 0)]  # channels, level
    before = widths[0]
    for level, (width, kind) in enumerate(zip(widths, config["down_block_types"], strict=True)):
        for _ in range(layers):
            yield _resnet(before, width, level)
            if "CrossAttn" in kind:
                yield _transformer(width, depths[level], level)
            before = width
            skips.append((width, level))
        if level < levels - 1:
            yield _Part(0, 0, 0, kept=width / 4**level)  # the input of the convolution that halves both sides
            skips.append((width, level + 1))
    yield _resnet(before, before, levels - 1)
    if config.get("mid_block_type", "UNetMidBlock2DCrossAttn"):
        yield _transformer(before, depths[-1], levels - 1)
    yield _resnet(before, before, levels - 1)
    for kind, level in zip(config["up_block_types"], reversed(range(levels)), strict=True):
        width = widths[level]
        for _ in range(layers + 1):
            yield _resnet(before + skips.pop()[0], width, level)
            if "CrossAttn" in kind:
                yield _transformer(width, depths[level], level)
            before = width
        if level:
            yield _Part(0, 0, 0, kept=width / 4 ** (level - 1))  # the input of a convolution after doubling
    yield _Part(0, 0, 0, kept=3 * before)  # norm, activation and convolution of the output


def _resnet(inputs: int, outputs: int, level: int) -> _Part:
    pixels = 4.0**-level
    convolutions = 2 if inputs == outputs else 3  # with that beside them
    return _Part(RESNET * (inputs + outputs) * pixels, 0, inputs * pixels, results=convolutions * outputs * pixels)


def _transformer(width: int, depth: int, level: int) -> _Part:
    pixels = 4.0**-level
    return _Part(
        inside=TRANSFORMER_BLOCK * width * pixels,
        feed_forward=FEED_FORWARD * width * pixels,
        entering=width * pixels,
        results=RESULTS * width * pixels,
        products=PRODUCTS * width * pixels,
        kept=AROUND_BLOCKS * width * pixels,
        blocks=depth,
    )
