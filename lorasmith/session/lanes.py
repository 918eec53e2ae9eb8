"""Lanes of memory: settings that make a run fit a device, from the fastest to the smallest, and what each takes.

An estimate from the shapes of the layers and the pictures, without torch, so that the parent chooses. It reads no
clock and tries nothing: the same settings give the same lane.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lorasmith.config import RunConfig
from lorasmith.data.types import Example
from lorasmith.errors import ConfigError
from lorasmith.families.footprint import Footprint
from lorasmith.families.weights import BaseWeights
from lorasmith.processor import BF16_PARAMETERS, has_nvidia, read_processor
from lorasmith.session.layers import chosen_layers, published_layers

Settings = dict[tuple[str, str], Any]

CHECKPOINTING, PRECISION, OFFLOAD = (
    ("training", "gradient_checkpointing"),
    ("model", "base_precision"),
    ("model", "base_offload"),
)
LATENT = 8  # pixels on a side of a latent pixel
BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0}
STORED = {"bf16": 2.0, "fp8": 1.0, "int8": 1.0, "w8a8": 1.0, "nf4": 0.5 + 4 / 64}
"""Bytes of a frozen weight by --base-precision; factors for each output are left out."""
SLOTS = 3  # layers of an offloaded base that are on the device
WHILE_DECODED = {"nf4": 6.0}
"""Bytes of a weight while it is made anew on a GPU, beside the weight itself: those in float32, and nf4's codes. On a
CPU a layer is made anew in pieces."""
NUMBERS_IN_FLOAT32 = 4.0
SPARE = 1.1  # of activations: what an allocator loses between them
FIXED = 700 << 20
"""Bytes of a process without a model: on a GPU its context and workspaces; on a CPU libraries, which take 500 MiB, and
what runs of models of the published widths were measured to take besides what is counted here."""
ENCODER_PIXEL = 5000  # bytes of a picture's pixel that the VAE encodes in float32, measured at 256 and 512 pixels
TILE = 512  # pixels on a side of a tile of the VAE
VAE_TILE = ("model", "vae_tile_size")
TEXT_FORM = ("model", "text_encoder_precision")
SMALL_TEXT = "int8"
TABLES = 1.2  # of the linear layers of a language model: its table of words, which stays whole
_SIZE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)\s*(gib|gb|g|mib|mb|m)?", re.IGNORECASE)
_UNITS = {"": 1 << 30, "g": 1 << 30, "gib": 1 << 30, "gb": 10**9, "m": 1 << 20, "mib": 1 << 20, "mb": 10**6}


class Lane(NamedTuple):
    """The settings of a lane."""

    checkpointing: str
    precision: str
    offload: float

    @property
    def settings(self) -> Settings:
        return {CHECKPOINTING: self.checkpointing, PRECISION: self.precision, OFFLOAD: self.offload}


ELEMENTWISE, QUARTER_AWAY = Lane("elementwise", "auto", 0.0), Lane("block", "auto", 0.25)
OF_FLOW = (ELEMENTWISE, QUARTER_AWAY)
"""For models of flow matching alone. A UNet's feed-forward layers take more memory and little time, its elementwise
operations much; and an offloaded base cannot be recorded as a CUDA graph, without which launches take most of its
step."""
LANES = (
    Lane("none", "auto", 0.0),
    ELEMENTWISE,
    Lane("feed-forward", "auto", 0.0),
    Lane("selective", "auto", 0.0),
    Lane("block", "auto", 0.0),
    QUARTER_AWAY,
    Lane("selective", "int8", 0.0),
    Lane("block", "int8", 0.0),
    Lane("block", "int8", 0.25),
    Lane("block", "int8", 0.5),
    Lane("block", "int8", 1.0),
    Lane("block", "auto", 1.0),
    Lane("offload", "auto", 1.0),
)
"""From the fastest to the smallest."""


@dataclass(frozen=True, slots=True)
class LaneEstimate:
    """Bytes that a lane takes on the device, by what they are for."""

    lane: Lane
    base: int
    adapter: int
    activations: int
    fixed: int
    encoding: int  # before the first step, where pictures or captions have to be encoded
    tile: int  # pixels on a side of the tiles that pictures are encoded in; 0: whole
    text_form: str  # of the text encoders
    fits: bool

    @property
    def settings(self) -> Settings:
        return {**self.lane.settings, VAE_TILE: self.tile, TEXT_FORM: self.text_form}

    @property
    def total(self) -> int:
        return max(self.base + self.adapter + self.activations + self.fixed, self.encoding)


class MemoryTooSmallError(ConfigError):
    """No lane fits."""

    def __init__(self, lanes: Sequence[LaneEstimate], *, memory: str) -> None:
        least = min(estimate.total for estimate in lanes)
        super().__init__("memory_too_small", memory=memory, least=f"{least / (1 << 30):.1f} GiB")
        self.lanes = tuple(lanes)


def size_of(text: str) -> int:
    """The bytes of a size such as 8GiB; a number alone counts GiB.

    Raises:
        ConfigError: `memory_size`.
    """
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * _UNITS[(match[2] or "").lower()]) if match else 0
    if not size:
        raise ConfigError("memory_size", value=text)
    return size


def estimates(
    config: RunConfig,
    weights: BaseWeights,
    footprint: Footprint,
    examples: Collection[Example],
    *,
    memory: int,
    fixed: Collection[tuple[str, str]] = (),
) -> list[LaneEstimate]:
    """The memory that each lane takes, from the fastest on. `fixed`: settings that a lane must leave as they are."""
    device = _device(config)
    number = BYTES[_precision(config, weights, device)]
    pixels = _most_pixels(config, examples, footprint.text_pixels * LATENT**2)
    picture = max(example.bucket.width * example.bucket.height for example in examples)
    adapter = int(footprint.relative_width * _adapter_bytes(config, weights.depths))
    vae = int(BYTES["fp32"] * footprint.vae_parameters)
    tile = _tile(config, picture, memory - FIXED - vae, fixed)
    encoded = vae + ENCODER_PIXEL * (min(picture, tile**2) if tile else picture)
    text_form, text = _text(config, weights, footprint, memory - FIXED, fixed)
    encoding = FIXED + max(encoded, text)
    found = []
    for lane in _lanes(config, device, fixed, is_flow=weights.noise.prediction == "flow"):
        base = _base_bytes(footprint, lane, number, device)
        kept = footprint.kept[lane.checkpointing] + footprint.computed[lane.checkpointing]
        activations = int(SPARE * kept * number * pixels / LATENT**2)
        total = base + adapter + activations + FIXED
        fits = max(total, encoding) <= memory
        found.append(LaneEstimate(lane, base, adapter, activations, FIXED, encoding, tile, text_form, fits))
    return found


def chosen(found: Sequence[LaneEstimate], *, memory: str) -> LaneEstimate:
    """The first lane that fits.

    Raises:
        MemoryTooSmallError: with the bytes of the smallest.
    """
    for estimate in found:
        if estimate.fits:
            return estimate
    raise MemoryTooSmallError(found, memory=memory)


def _lanes(config: RunConfig, device: str, fixed: Collection[tuple[str, str]], *, is_flow: bool) -> Iterator[Lane]:
    """The lanes that a run may have, each once."""
    own = Lane(config.training.gradient_checkpointing, config.model.base_precision, config.model.base_offload)
    seen = set()
    for offered in LANES:
        if offered in OF_FLOW and not is_flow:
            continue
        lane = Lane(
            own.checkpointing if CHECKPOINTING in fixed else offered.checkpointing,
            own.precision if PRECISION in fixed else offered.precision,
            own.offload if OFFLOAD in fixed else offered.offload,
        )
        is_of_device = device == "cuda" or lane == own or (lane.offload == 0 and lane.checkpointing != "offload")
        is_of_kind = config.adapter.kind != "dora" or (lane.precision == "auto" and lane.offload == 0)
        if lane not in seen and is_of_device and is_of_kind:
            seen.add(lane)
            yield lane


def _base_bytes(footprint: Footprint, lane: Lane, number: float, device: str) -> int:
    """Bytes of the frozen weights on the device, and of the layer that is computed: made anew, or on a CPU brought into
    the order in which its units multiply."""
    stored, layer = STORED.get(lane.precision, number), footprint.largest_layer
    whole = footprint.parameters * stored
    if lane.offload and device != "cpu":
        whole = whole * (1 - lane.offload) + SLOTS * layer * stored
    if lane.precision not in ("auto", "bf16"):
        whole += number * layer
        if device != "cpu":
            whole += WHILE_DECODED.get(lane.precision, NUMBERS_IN_FLOAT32) * layer
    return int(whole + (number * layer if device == "cpu" else 0))


def _adapter_bytes(config: RunConfig, depths: Mapping[str, int]) -> int:
    """Bytes of the adapter, its gradient and the optimizer's state, as for a LoRA with AdamW on the published model."""
    with_text = config.adapter.trains_text_encoder
    layers = published_layers(config.model.family, with_text_encoders=with_text, depths=depths)
    numbers = 0
    for name, size in chosen_layers(config.adapter, config.model.family, layers).items():
        layer = layers[name]
        window = 1
        for side in layer.kernel:
            window *= side
        numbers += size.rank * (layer.inputs * window + layer.outputs)
    number = 2 if config.training.full_bf16 else 4
    return numbers * (4 * number + (4 if config.training.ema_decay else 0))


def _device(config: RunConfig) -> str:
    if config.machine.device != "auto":
        return config.machine.device.partition(":")[0]
    return "cuda" if has_nvidia() else "cpu"


def _precision(config: RunConfig, weights: BaseWeights, device: str) -> str:
    """As `engine.device.choose_precision`; cards without bf16 have fp16, of the same size."""
    if config.model.precision != "auto":
        return config.model.precision
    if device == "cpu" and read_processor().has_bf16_units and (weights.denoiser_parameters or 0) >= BF16_PARAMETERS:
        return "bf16"
    return "bf16" if device == "cuda" else "fp32"


def _most_pixels(config: RunConfig, examples: Iterable[Example], text: int) -> int:
    """The pixels of the heaviest batch; the text of an example counts as `text` of them."""
    subsets = config.subsets()
    return max(
        (example.bucket.width * example.bucket.height + text) * subsets[example.subset].batch_size
        for example in examples
    )


def _text(
    config: RunConfig,
    weights: BaseWeights,
    footprint: Footprint,
    memory: int,
    fixed: Collection[tuple[str, str]],
) -> tuple[str, int]:
    """The form of the text encoders and their bytes. Language models that would not fit in `memory` bytes are kept in
    8 bits; CLIP is small, and in float32."""
    form: str = config.model.text_encoder_precision
    whole = footprint.text_bytes * footprint.text_parameters
    is_language = weights.noise.prediction == "flow"
    if is_language and form == "auto" and TEXT_FORM not in fixed and whole > memory:
        form = SMALL_TEXT
    return form, whole if form == "auto" else int(footprint.text_parameters * TABLES * STORED[form])


def _tile(config: RunConfig, pixels: int, memory: int, fixed: Collection[tuple[str, str]]) -> int:
    """The side of the VAE's tiles: 0 where the largest picture is encoded whole in `memory` bytes beside the VAE."""
    if VAE_TILE in fixed:
        return config.model.vae_tile_size
    return TILE if ENCODER_PIXEL * pixels > memory else 0
