"""A family of flow matching beside diffusers' own pipeline, on the same miniature, and the comparisons that each has.

Every parameter of the miniatures is random, so no effect is hidden. A family's own tests compare what only it has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from lorasmith.data.types import Example, Offset, Size
from lorasmith.diffusion.draw import Draw, draw_numbers
from lorasmith.diffusion.process import apply_noise

CPU = torch.device("cpu")
CAPTIONS = ("a red circle", "", "a blue ring, " * 30)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


@dataclass(frozen=True)
class Reference:
    """The miniature as the program loads it, and as diffusers does."""

    folder: Path
    family: Any
    encoders: Mapping[str, nn.Module]
    models: Mapping[str, nn.Module]
    pipeline: Any
    """Text encoders in bfloat16, all else in float32."""

    denoiser: ClassVar[str]
    """Diffusers' class."""
    latents: ClassVar[tuple[int, ...]] = (4, 6, 8)
    rounding: ClassVar[float] = 1e-5
    """Largest relative difference of predictions: larger where both sides encode captions in bfloat16."""
    float32: ClassVar[int] = 0
    """Parameters of the denoiser that stay float32 in bfloat16."""

    def inputs(self, *captions: str) -> list[dict[str, Tensor]]:
        return [self.family.encode_caption(self.encoders, caption) for caption in captions]

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


class FlowTests:
    """The tests of every family; a subclass in a file with the fixture `loaded` runs them."""

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
    def test_every_tensor_has_the_type_that_from_pretrained_gives_it(
        self, loaded: Reference, dtype: torch.dtype
    ) -> None:
        expected = loaded.tensors_there(dtype)
        found = loaded.family.load_models(trained=[], dtype=dtype, to=CPU)["denoiser"].state_dict()
        assert {name: tensor.dtype for name, tensor in found.items()} == {
            name: tensor.dtype for name, tensor in expected.items()
        }
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
        kept = [name for name, tensor in found.items() if tensor.dtype == torch.float32]
        assert len(kept) == (loaded.float32 if dtype == torch.bfloat16 else len(found))

    def test_predictions_are_those_of_the_pipelines_call(self, loaded: Reference) -> None:
        """Captions of unequal lengths in a batch, each with its own level; a batch is its examples alone."""
        latents, levels, rows = drawn(3, *loaded.latents), (0.9, 0.5, 0.1), loaded.inputs(*CAPTIONS)
        found = loaded.predict(latents, levels, rows)
        assert difference(found, loaded.predicted_there(latents, levels, CAPTIONS)) < loaded.rounding
        for number in range(3):
            one = slice(number, number + 1)
            assert difference(found[one], loaded.predict(latents[one], levels[one], rows[one])) < 1e-5

    def test_predictions_in_bfloat16(self, loaded: Reference) -> None:
        ours = loaded.family.load_models(trained=[], dtype=torch.bfloat16, to=CPU)["denoiser"]
        latents, theirs = drawn(1, *loaded.latents), loaded.denoiser_there(torch.bfloat16)
        found = loaded.predict(latents, (0.7013,), loaded.inputs("a red circle"), denoiser=ours)
        assert found.dtype == torch.bfloat16
        expected = loaded.predicted_there(latents, (0.7013,), ["a red circle"], denoiser=theirs)
        assert difference(found, expected) < 3e-2

    def test_the_loss_is_that_of_the_velocity(self, loaded: Reference) -> None:
        """A prediction of noise - picture, at the level, has no loss: target and levels are the pipeline's."""
        latents = drawn(2, *loaded.latents)
        noised = apply_noise(loaded.family.noise_process(), latents, draw_numbers(Draw(1, 1, 1), latents))
        share = noised.timesteps.view(-1, 1, 1, 1)
        stepped = noised.noisy_latents - share * noised.target  # what the scheduler's last step makes of the prediction
        assert torch.allclose(stepped, latents, atol=1e-5)

    def test_nothing_follows_from_the_geometry(self, loaded: Reference) -> None:
        size = Size(64, 64)
        example = Example(Path("a.png"), "", 1, size, size, size, Offset(0, 0), "", "")
        assert loaded.family.example_inputs(example) == {}
