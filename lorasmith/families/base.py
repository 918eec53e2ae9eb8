"""What a model family answers. It never drives: there is one loop, and nobody subclasses it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, device, dtype, nn

from lorasmith.diffusion.noise_schedules import Draws, Noised
from lorasmith.targets import TargetModule

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from lorasmith.families.weights import BaseWeights


@dataclass(frozen=True, slots=True)
class FamilyTraits:
    """What does not depend on the weights at hand."""

    name: str  # a key of FAMILIES
    latent_channels: int
    caption_tokens: int  # of a caption that the text encoders see, without its start and end
    text_encoders: tuple[str, ...]  # the components that hold text encoders, in order
    base_model_version: str  # ss_base_model_version, without the suffix of v-prediction
    architecture: str  # modelspec.architecture
    implementation: str  # modelspec.implementation


@dataclass(frozen=True, slots=True)
class Encoders:
    """The VAE and the text encoders, float32 and frozen, with what they need. They exist while something is encoded."""

    modules: Mapping[str, nn.Module]  # "vae" and the family's text encoders
    tokenizers: Mapping[str, Any]  # by the name of the text encoder
    clip_skip: int  # 1: the last layer


class ModelFamily(Protocol):
    """Constructed with the weights that `families.recognize` found: `load_family(weights.family)(weights)`."""

    traits: FamilyTraits
    weights: BaseWeights

    def encoder_hashes(self) -> dict[str, str]:
        """SHA-256 of the weights of "vae" and of each text encoder, without loading them: part of the cache's keys."""

    def load_encoders(self, *, clip_skip: int, where: device, only: Collection[str] = ()) -> Encoders:
        """The encoders named in `only`, else all; float32, in evaluation mode, without gradients."""

    def load_models(self, *, trained: Collection[str], precision: dtype, where: device) -> dict[str, nn.Module]:
        """ "denoiser", and the text encoders named in `trained`: frozen weights of `precision`, in evaluation mode."""

    def targets(self, models: Mapping[str, nn.Module]) -> list[TargetModule]:
        """The layers the adapter attaches to, of every model given, in a fixed order: denoiser first."""

    def encode_images(self, encoders: Encoders, pixels: Tensor) -> Tensor:
        """(1, 3, H, W) in [-1, 1] -> (1, C, h, w): the posterior's mean, scaled as the denoiser wants it, float32."""

    def encode_captions(self, encoders: Encoders, captions: Sequence[str]) -> dict[str, Tensor]:
        """Captions -> the conditioning of `predict`, float32, first dimension the captions."""

    def first_unseen_tag(self, caption: str) -> str:
        """The first tag (what stands between commas) of which the text encoders do not see all; "" where they do."""

    def tokenize(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Captions -> what `encode_tokens` takes; needs no weights."""

    def collate_conditioning(self, cached: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Conditionings of single captions, without batch dimension -> one of the batch."""

    def conditioning_in(self, conditioning: Mapping[str, Tensor], precision: dtype) -> dict[str, Tensor]:
        """The conditioning as `predict` shows it to a denoiser of that precision, for keeping it in less memory: it
        predicts the same bits from either."""

    def encode_tokens(
        self, models: Mapping[str, nn.Module], tokens: Mapping[str, Tensor], *, clip_skip: int
    ) -> dict[str, Tensor]:
        """As `encode_captions`, through the models being trained, with gradient."""

    def add_noise(self, latents: Tensor, draw: Draws) -> Noised:
        """Pure: the same latents and draw give the same numbers. Asks for "noise" (normal) and "timestep" (uniform)."""

    def predict(self, models: Mapping[str, nn.Module], noised: Noised, conditioning: Mapping[str, Tensor]) -> Tensor:
        """The denoiser's output, (B, C, h, w), in its own precision."""

    def denoise(
        self,
        predict: Callable[[Tensor, Tensor], Tensor],
        latents: Tensor,
        noise: Tensor,
        *,
        strength: float,
        steps: int,
    ) -> Tensor:
        """Latents (B, C, h, w) noised to `strength` in (0, 1] and drawn anew in `steps` * `strength` steps; at 1 from
        `noise` alone. `predict(sample, timesteps)` is `predict` with what the caller adds to it, in float32."""

    def decode_latents(self, encoders: Encoders, latents: Tensor) -> Tensor:
        """(1, C, h, w) as `encode_images` gives them -> (1, 3, H, W), about in [-1, 1], float32."""

    def set_checkpointing(self, models: Mapping[str, nn.Module], enabled: bool) -> None:
        """Whether the denoiser computes its activations twice instead of keeping them."""

    def to_kohya(self, tensors: Mapping[str, Tensor], *, alpha: float) -> dict[str, Tensor]:
        """The adapter's tensors, by target name -> the WebUI's names, with an alpha (float32) for each module."""

    def from_kohya(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The way back, for --init-from: the change each pair makes stays the same; alpha is folded into the up matrix
        so that the scale is 1 (alpha = rank).

        Raises:
            ModelError: a key that is not of this family.
        """

    def pipeline(self, models: Mapping[str, nn.Module], encoders: Encoders) -> DiffusionPipeline:
        """For generating samples."""
