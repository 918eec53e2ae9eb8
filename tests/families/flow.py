"""A family of flow matching as the program loads it, and as diffusers' own pipeline does, on the same miniature.

Every parameter of the miniatures is random, so no effect is hidden. tests/contracts/flow_contract.py compares them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from lorasmith.families import load_family
from lorasmith.families.recognize import recognize

CPU = torch.device("cpu")
CAPTIONS = ("a red circle", "", "a blue ring, " * 30)
STEPS = 5  # of samples
R = TypeVar("R", bound="Reference")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def load_pipeline(folder: Path, name: str, text_encoders: Sequence[str] = ("text_encoder",)) -> Any:
    """A pipeline of diffusers: text encoders in bfloat16, all else in float32."""
    import diffusers

    types = {**dict.fromkeys(text_encoders, torch.bfloat16), "default": torch.float32}
    pipeline = getattr(diffusers, name).from_pretrained(folder, dtype=types, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_reference(kind: type[R], folder: Path, pipeline: Any) -> R:
    """The miniature in a folder beside a pipeline that was loaded from it."""
    family = load_family(recognize(folder))
    assert isinstance(family, kind.kind)
    models = family.load_models(trained=[], dtype=torch.float32, to=CPU)
    return kind(folder, family, family.load_encoders(CPU), models, pipeline)


@dataclass(frozen=True)
class Reference:
    """The miniature as both load it. A family names its class, its values, and what the pipeline makes of inputs."""

    folder: Path
    family: Any
    encoders: Mapping[str, nn.Module]
    models: Mapping[str, nn.Module]
    pipeline: Any
    """Text encoders in bfloat16, all else in float32."""
    texts: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """Captions that were encoded: each is, once, for all tests."""

    kind: ClassVar[type]
    """The family's class."""
    denoiser: ClassVar[str]
    """Diffusers' class."""
    latents: ClassVar[tuple[int, ...]] = (4, 6, 8)
    rounding: ClassVar[float] = 1e-5
    """Largest relative difference of predictions: larger where both sides encode captions in bfloat16."""
    float32: ClassVar[int] = 0
    """Parameters of the denoiser that stay float32 in bfloat16."""
    captions: ClassVar[tuple[str, ...]] = (*CAPTIONS, "x " * 900)
    text_rounding: ClassVar[float] = 0.0
    """Largest relative difference of captions in bfloat16: 0 where the pipeline computes the same batch."""
    lengths: ClassVar[tuple[int, int]]
    """Tokens of the texts of a batch of all CAPTIONS, and of the first two."""
    guidance: ClassVar[float] = 4.0
    sampled: ClassVar[tuple[int, int, int]] = (4, 8, 6)
    """Latents of a sample, of 48 x 64 pixels."""
    sample_rounding: ClassVar[float] = 1e-4
    shifts: ClassVar[Mapping[int, tuple[float, float]]]
    """Factors of training and of sampling in so many steps as here, by the side of latents."""

    def inputs(self, *captions: str) -> list[dict[str, Tensor]]:
        for caption in set(captions) - self.texts.keys():
            self.texts[caption] = self.family.encode_caption(self.encoders, caption)
        return [dict(self.texts[caption]) for caption in captions]

    def predict(
        self, latents: Tensor, levels: Sequence[float], rows: list[dict[str, Tensor]], **models: nn.Module
    ) -> Tensor:
        conditioning = self.family.conditioning(self.models, self.family.collate(rows))
        with torch.no_grad():
            predicted: Tensor = self.family.predict(models or self.models, latents, torch.tensor(levels), conditioning)
        return predicted

    def predicted_there(
        self, latents: Tensor, levels: Sequence[float], captions: Sequence[str], **models: nn.Module
    ) -> Tensor:
        """The prediction as the pipeline makes it."""
        raise NotImplementedError

    def denoiser_there(self, dtype: torch.dtype) -> Any:
        import diffusers

        return getattr(diffusers, self.denoiser).from_pretrained(self.folder / "transformer", dtype=dtype)

    def tensors_there(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """All tensors of diffusers' denoiser, by the names that they have in ours."""
        tensors: dict[str, Tensor] = self.denoiser_there(dtype).state_dict()
        return tensors

    def text_encoders_there(self) -> dict[str, tuple[nn.Module, tuple[str, ...]]]:
        """By component: the pipeline's module, and how the names of those of its tensors begin that ours lacks."""
        raise NotImplementedError

    def texts_there(self, *captions: str) -> list[dict[str, Tensor]]:
        """What the pipeline makes of a batch of captions, as the inputs of each; without padding that ours lacks."""
        raise NotImplementedError

    def encoders_in_float32(self) -> dict[str, Any]:
        """The pipeline's text encoders in float32 by component; none where captions in bfloat16 are equal."""
        raise NotImplementedError

    def encoded(self, encoders: Mapping[str, Any], caption: str) -> Tensor:
        """What we make of a caption with these."""
        raise NotImplementedError

    def sampled_there(self, noise: Tensor, caption: str) -> Tensor:
        """The pipeline's sample from noise with its default guidance, as latents of ours."""
        raise NotImplementedError

    def called_to_sample(self, latents: Tensor, **named: Any) -> Tensor:
        """What the pipeline returns for noise in its own form."""
        settings = {"height": 64, "width": 48, "num_inference_steps": STEPS, "output_type": "latent", **named}
        sample: Tensor = self.pipeline(latents=latents, **settings).images
        return sample
