"""Parts that families of flow matching share: a transformer as denoiser, text encoders that are language models, a VAE.

A family names its facts as class attributes and adds what is its own: text, latents, `predict`, the noise process. The
libraries' model classes are imported when a component is loaded, not before. Nothing here goes online. Knows no family,
no adapter, no optimizer and no run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from lorasmith.data.types import Example
from lorasmith.families.base import FamilyTraits, Models
from lorasmith.families.checkpointing import Checkpointing, checkpoint_blocks
from lorasmith.families.identity import component_sha256
from lorasmith.families.loading import Build, Destination, load_component
from lorasmith.families.split_files import DENOISER
from lorasmith.families.stored_tensors import DtypeOf
from lorasmith.families.weights import BaseWeights, TextSettings, check_plain_text
from lorasmith.targets import TargetModule


class FlowTransformer:
    """All of `families.base.ModelFamily` that does not differ between families of flow matching.

    Text encoders are loaded as they are published, in bfloat16, and never trained: float32 would take twice the memory
    to give the same captions, and no program reads adapters of them.
    """

    traits: ClassVar[FamilyTraits]
    builders: ClassVar[Mapping[str, Callable[[], Build]]]
    """By component: imports the library, and returns the function that builds the component."""
    targets: ClassVar[re.Pattern[str]]
    """Fits the whole path, in the denoiser, of each layer that an adapter may attach to."""
    blocks: ClassVar[tuple[str, ...]]
    """Paths of the lists of blocks in the denoiser, in order."""
    feed_forwards: ClassVar[tuple[str, ...]] = ("ff",)
    """Last parts of the names of the modules that are feed-forward layers."""
    float32_parts: ClassVar[frozenset[str]] = frozenset()
    """Parts of the denoiser's names, between dots, whose tensors stay float32 whatever the precision."""
    text_dtype: ClassVar[torch.dtype] = torch.bfloat16

    def __init__(self, weights: BaseWeights, text: TextSettings) -> None:
        check_plain_text(text)
        self.weights = weights
        self.text = text

    # -- loading -----------------------------------------------------------------------------------

    def text_description(self) -> list[Any]:
        """All that the encoded captions depend on besides the weights, configs and tokenizers, as plain values: layers
        that are taken, templates."""
        raise NotImplementedError

    def encoder_hashes(self) -> dict[str, str]:
        hashes = {component: component_sha256(self.weights, component) for component in self._encoders}
        described = self.text_description()
        for component in self.traits.text_encoders:
            text = json.dumps([hashes[component], *described])
            hashes[component] = hashlib.sha256(text.encode()).hexdigest()
        return hashes

    def load_encoders(self, to: Destination, *, only: Collection[str] = ()) -> dict[str, nn.Module]:
        return {name: self._load(name, self._encoder_dtype(name), to) for name in only or self._encoders}

    def load_models(self, *, trained: Collection[str], dtype: torch.dtype, to: Destination) -> dict[str, nn.Module]:
        assert not trained, "the text encoders are never trained"

        def dtype_of(name: str) -> torch.dtype:
            return dtype if self.float32_parts.isdisjoint(name.split(".")) else torch.float32

        return {"denoiser": self._load(DENOISER, dtype_of, to)}

    @property
    def _encoders(self) -> tuple[str, ...]:
        return ("vae", *self.traits.text_encoders)

    def _encoder_dtype(self, component: str) -> torch.dtype:
        return torch.float32 if component == "vae" else self.text_dtype

    def _load(self, component: str, dtype: torch.dtype | DtypeOf, to: Destination) -> nn.Module:
        return load_component(
            self._weights_read(),
            component,
            self._builder(component),
            dtype=dtype,
            to=to,
            allows_extra=False,
        )

    def _builder(self, component: str) -> Callable[[], Build]:
        return self.builders[component]

    def _weights_read(self) -> BaseWeights:
        """The weights as components are loaded from them; a family may leave out what it does not use."""
        return self.weights

    def target_modules(self, models: Models) -> list[TargetModule]:
        denoiser = models["denoiser"]
        paths = [path for path, _ in denoiser.named_modules() if self.targets.fullmatch(path)]
        return [TargetModule.inside(denoiser, path, name=f"denoiser.{path}", component="denoiser") for path in paths]

    def repeated_blocks(self, models: Models) -> list[nn.Module]:
        lists = [models["denoiser"].get_submodule(path) for path in self.blocks]
        return [block for blocks in lists for block in blocks.children()]

    def set_checkpointing(self, models: Models, level: Checkpointing) -> None:
        checkpoint_blocks(models["denoiser"], level, feed_forwards=self.feed_forwards)

    # -- inputs ------------------------------------------------------------------------------------

    def example_inputs(self, example: Example) -> dict[str, Tensor]:  # noqa: ARG002  no geometry, unless a family adds
        return {}


def padded_texts(rows: Sequence[Mapping[str, Tensor]], name: str, step: int) -> tuple[Tensor, Tensor]:
    """The texts `name` of a batch, (tokens, …) each -> (B, longest, …), padded with zeros behind their end to a
    multiple of `step` tokens: each length is a shape of its own to record a step for. And a boolean mask of what is
    text, (B, longest)."""
    lengths = [len(row[name]) for row in rows]
    longest = -(-max(lengths) // step) * step
    texts = torch.stack([_lengthened(row[name], longest) for row in rows])
    return texts, torch.arange(longest) < torch.tensor(lengths)[:, None]


def packed(latents: Tensor, side: int = 2) -> Tensor:
    """(B, C, h, w) -> (B, tokens, C * side²): patches row by row, each of them by channel, row and column."""
    patches = latents.unflatten(3, (-1, side)).unflatten(2, (-1, side))
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpacked(tokens: Tensor, rows: int, columns: int, side: int = 2) -> Tensor:
    """The way back from `packed`."""
    patches = tokens.unflatten(2, (-1, side, side)).unflatten(1, (rows, columns))
    return patches.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def grid_positions(rows: int, columns: int, device: torch.device) -> Tensor:
    """(rows * columns, 3), float32: (0, row, column) of each token of a picture."""
    ranges = (torch.arange(float(count), device=device) for count in (1, rows, columns))
    return torch.cartesian_prod(*ranges)


def _lengthened(text: Tensor, length: int) -> Tensor:
    return pad(text, (0, 0) * (text.ndim - 1) + (0, length - len(text)))
