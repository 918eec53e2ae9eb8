"""Values on the way from the folder to the step: an example, its inputs to the model, and a batch of those."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, device

LATENTS = "latents"
LOSS_MASK = "loss_mask"
"""The share of each element's loss that counts, (h, w) in [0, 1], the same for all channels. All rows of a batch have a
mask or none has."""
LOSS_WEIGHT = "loss_weight"
"""The factor of an example's loss, (): in all rows of a batch or in none."""
Inputs = Mapping[str, "Tensor"]
"""Tensors by the family's own names, but for the three above, which every family has."""


class Size(NamedTuple):
    """Pixels."""

    width: int
    height: int


class Offset(NamedTuple):
    """Pixels from the top left corner."""

    left: int
    top: int


class Mask(NamedTuple):
    """The picture that tells how much each part of an example counts in the loss."""

    file: Path
    sha256: str  # of the file's bytes
    is_alpha: bool  # whether its alpha channel is meant, else its red channel


@dataclass(frozen=True, slots=True)
class Example:
    """A picture with its caption, and the geometry of its cut to its bucket."""

    image: Path
    caption: str  # what the settings make of `text`, without anything random
    repeats: int
    original: Size  # pixels on disk, after EXIF orientation
    resized: Size  # the whole picture scaled so that it covers the bucket
    bucket: Size  # pixels trained on
    crop: Offset  # of the bucket inside the resized picture
    image_sha256: str  # of the file's bytes: hold-out, and part of the key of its latents
    example_hash: str  # SHA-256 over image_sha256, caption and a mask's file: identity in the ledger
    subset: int = 0  # number of the subset of the dataset that it belongs to
    resampling: str = "lanczos"  # the filter: `data.images` has all
    is_unbucketed: bool = False  # its bucket is the size that was asked for, whatever its shape
    is_mirrored: bool = False  # left to right, and `crop` is in the mirrored picture
    is_regularisation: bool = False  # it preserves what the base model knows of the class
    mask: Mask | None = None  # of the loss; None: all of the picture counts
    text: str = ""  # the words of its caption file or folder, from which its caption at each use is made


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem with a file or a folder. Its sentence is `problem.<reason>`."""

    path: Path
    reason: str
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CachedExample:
    """The inputs of an example: what the frozen encoders made of it, tokens for the trained encoders, and whatever else
    its family derives from it."""

    inputs: Inputs  # without a batch dimension; equal pictures and equal captions share their tensors

    @property
    def latents(self) -> Tensor:
        """(C, h, w): the mean of the VAE's posterior, scaled as the denoiser expects it."""
        return self.inputs[LATENTS]


class Use(NamedTuple):
    """A use of an example in a run. No two are equal, so all that is random about one is a function of seed and use."""

    example_id: int  # index into the run's list of trained examples
    epoch: int  # from 1
    step: int  # from 1
    micro: int  # number of the micro-batch in the step, from 0
    row: int  # place in the micro-batch, from 0


VaryingInputs = Callable[[Use], Inputs]
"""Inputs of an example that may differ from use to use, on the CPU and without a batch dimension: a pure function."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A micro-batch of examples of the same bucket."""

    inputs: Inputs  # first dimension B
    example_ids: tuple[int, ...]  # indices into the run's list of trained examples

    def __len__(self) -> int:
        return len(self.example_ids)

    @property
    def latents(self) -> Tensor:
        """(B, C, h, w)."""
        return self.inputs[LATENTS]

    def rows(self, start: int, stop: int) -> Batch:
        """The examples start..stop-1 of this batch, as views."""
        cut = slice(start, stop)
        return Batch({name: value[cut] for name, value in self.inputs.items()}, self.example_ids[cut])

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """This batch with every input changed."""
        return Batch({name: change(value) for name, value in self.inputs.items()}, self.example_ids)

    def to(self, where: device) -> Batch:
        """This batch on another device; itself on the CPU."""
        if where.type == "cpu":
            return self
        return self.mapped(lambda value: value.to(where, non_blocking=True))
