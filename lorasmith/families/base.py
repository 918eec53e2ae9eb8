"""The protocol of a model family: the questions that the engine asks of it.

A family never drives: there is a single training loop, and no family subclasses it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from lorasmith.diffusion.process import NoiseProcess
from lorasmith.diffusion.sampling import SamplingDefaults
from lorasmith.targets import TargetModule

if TYPE_CHECKING:
    from lorasmith.data.types import Example, Inputs
    from lorasmith.families.checkpointing import Checkpointing
    from lorasmith.families.forward_work import ForwardWork, Shapes
    from lorasmith.families.loading import Destination
from lorasmith.families.weights import BaseWeights, TextSettings

Models = Mapping[str, nn.Module]
"""Loaded components by name: "denoiser", "vae", and the family's text encoders."""


@dataclass(frozen=True, slots=True)
class FamilyTraits:
    """Facts of a family that do not depend on the weights."""

    name: str  # a key of FAMILIES
    text_encoders: tuple[str, ...]  # the components that hold text encoders, in order
    base_model_version: str  # ss_base_model_version, without the suffix of v-prediction
    architecture: str  # modelspec.architecture
    implementation: str  # modelspec.implementation
    sampling: SamplingDefaults
    least_clip_skip: int = 1  # 2: the last layer of the text encoders is never taken, whatever is asked for
    cache_dtype: torch.dtype = torch.float32  # in which the encoders' outputs are stored, unless theirs is smaller
    trains_text: bool = True  # whether adapters may attach to the text encoders
    reads_english_only: bool = False  # its text encoders have learned English: other scripts are bytes or gaps to them


class ModelFamily(Protocol):
    """Constructed by `load_family` as `Family(weights, text)`.

    The inputs of an example are tensors by the family's own names, without a batch dimension: those of `encode_image`
    ("latents" in every family), of `encode_caption` for the text encoders that are not trained, of `tokenize` where
    some are, and of `example_inputs`. `collate` makes a batch of them, `conditioning` what `predict` needs.
    """

    traits: FamilyTraits
    weights: BaseWeights
    text: TextSettings
    caption_tokens: int
    """Tokens of a caption that the text encoders see, without its start and end."""

    # -- loading -----------------------------------------------------------------------------------

    def encoder_hashes(self) -> dict[str, str]:
        """SHA-256 of the weights of "vae" and of each text encoder, without loading them: part of the cache's keys."""

    def load_encoders(self, to: Destination, *, only: Collection[str] = ()) -> dict[str, nn.Module]:
        """ "vae" and the text encoders, or those of them named in `only`: float32, evaluation mode, no gradients."""

    def load_models(self, *, trained: Collection[str], dtype: torch.dtype, to: Destination) -> dict[str, nn.Module]:
        """ "denoiser", and the text encoders named in `trained`: frozen weights of `dtype`, in evaluation mode."""

    def target_modules(self, models: Models) -> list[TargetModule]:
        """The layers that an adapter may attach to, of every model given, in a fixed order: denoiser first. Which of
        them a run trains follows from their names and sizes (`session.layers`)."""

    def repeated_blocks(self, models: Models) -> list[nn.Module]:
        """The blocks of the denoiser that occur many times: each kind is compiled once for every shape."""

    def set_checkpointing(self, models: Models, level: Checkpointing) -> None:
        """Sets which activations the denoiser computes twice instead of keeping them."""

    # -- inputs ------------------------------------------------------------------------------------

    def encode_image(self, encoders: Models, pixels: Tensor, *, tile: int = 0) -> dict[str, Tensor]:
        """(3, H, W) in [-1, 1] -> "latents" (C, h, w): the posterior's mean, scaled as the denoiser expects it. With
        `tile`, a picture with a longer side is encoded in overlapping tiles of that side, in pixels."""

    def encode_caption(self, encoders: Models, caption: str) -> dict[str, Tensor]:
        """The outputs, for a caption, of those text encoders that are among `encoders`."""

    def tokenize(self, caption: str) -> dict[str, Tensor]:
        """Tokens of a caption for the text encoders that are trained; reads no weights."""

    def first_unseen_tag(self, caption: str) -> str:
        """The first tag (the text between commas) that the text encoders do not see whole; "" where they see all."""

    def example_inputs(self, example: Example) -> dict[str, Tensor]:
        """Inputs that follow from an example's geometry or words without an encoder: SDXL's time_ids, {} for SD 1.5."""

    def collate(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The inputs of a batch from those of its examples, all of the same bucket; first dimension B.

        Rows of equal tensors give equal batches: nothing depends on what else is in the batch but padding that
        `predict` masks.
        """

    # -- the step ----------------------------------------------------------------------------------

    def conditioning(self, models: Models, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs of `predict` besides the latents: encodes the tokens of the text encoders that are among `models`,
        with gradient, and passes on what was encoded before."""

    def forward_work(self, shapes: Mapping[str, Shapes], inputs: Inputs) -> ForwardWork:
        """The floating-point operations of the denoiser's forward pass for an example, by the shapes of the weights of
        each model."""

    def noise_process(self) -> NoiseProcess:
        """The noise process that the weights were trained for, on the CPU."""

    def predict(
        self,
        models: Models,
        noisy_latents: Tensor,
        timesteps: Tensor,
        conditioning: Mapping[str, Tensor],
    ) -> Tensor:
        """Noisy latents (B, C, h, w) at timesteps (B,) -> the denoiser's output, (B, C, h, w), in its own precision.

        It converts the text's embeddings to that precision first: the same bits whether they were kept in float32 or
        in it.
        """

    def decode_latents(self, encoders: Models, latents: Tensor, *, free_memory: int | None = None) -> Tensor:
        """(1, C, h, w) as `encode_image` scales them -> (1, 3, H, W), about in [-1, 1], float32; in tiles where the
        whole takes more than `free_memory` bytes."""
