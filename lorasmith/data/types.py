"""What flows from the folder to the step: an example, what is cached of it, and a batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, device


class Size(NamedTuple):
    """Pixels."""

    width: int
    height: int


class Offset(NamedTuple):
    """Pixels from the top left corner."""

    left: int
    top: int


@dataclass(frozen=True, slots=True)
class Example:
    """A picture with its caption, and how it is cut to its bucket."""

    image: Path
    caption: str
    repeats: int
    original: Size  # pixels on disk, after EXIF orientation
    resized: Size  # the whole picture scaled so that it covers the bucket
    bucket: Size  # pixels trained on
    crop: Offset  # of the bucket inside the resized picture
    image_sha256: str  # of the file's bytes: hold-out, and part of the key of its latents
    fingerprint: str  # of image_sha256 and caption: identity in the ledger


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with one file, or a folder. Its sentence is `problem.<reason>`."""

    path: Path
    reason: str
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CachedExample:
    """What the encoders made of an example. `conditioning` is None where a text encoder is trained."""

    latents: Tensor  # (C, h, w), the posterior's mean, scaled as the denoiser wants them, float32
    conditioning: dict[str, Tensor] | None  # the family's own names, without a batch dimension
    tokens: dict[str, Tensor] | None  # instead of conditioning where a text encoder is trained


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch, all of one bucket."""

    latents: Tensor  # (B, C, h, w), as in CachedExample
    conditioning: dict[str, Tensor] | None
    tokens: dict[str, Tensor] | None
    example_ids: tuple[int, ...]  # indices into the run's list of trained examples

    def __len__(self) -> int:
        return len(self.example_ids)

    def rows(self, start: int, stop: int) -> Batch:
        """The examples start..stop-1 of this batch, as views."""
        cut = slice(start, stop)
        return Batch(
            latents=self.latents[cut],
            conditioning=None if self.conditioning is None else {k: v[cut] for k, v in self.conditioning.items()},
            tokens=None if self.tokens is None else {k: v[cut] for k, v in self.tokens.items()},
            example_ids=self.example_ids[cut],
        )

    def to(self, where: device) -> Batch:
        """This batch on another device; itself on the CPU, where every batch is made."""
        if where.type == "cpu":
            return self
        return Batch(
            latents=self.latents.to(where, non_blocking=True),
            conditioning=None if self.conditioning is None else {k: v.to(where) for k, v in self.conditioning.items()},
            tokens=None if self.tokens is None else {k: v.to(where) for k, v in self.tokens.items()},
            example_ids=self.example_ids,
        )
