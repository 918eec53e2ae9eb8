"""FLUX.1 dev against diffusers' own pipeline, on the same miniature, whose every parameter is random."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from lorasmith.families.flow_transformer import packed, unpacked
from lorasmith.families.flux1.family import EMBEDS, GUIDANCE, POOLED, Flux1
from lorasmith.families.flux1.layout import LENGTH
from tests.contracts.flow_contract import FlowContract, FluxPictures
from tests.families.flow import CPU, Reference, difference, drawn, load_pipeline, load_reference
from tests.families.flux1.miniature import make_model


@dataclass(frozen=True)
class Text:
    """What the pipeline makes of captions."""

    embeds: Tensor
    pooled: Tensor
    places: Tensor


@dataclass(frozen=True)
class Loaded(Reference):
    kind = Flux1
    denoiser = "FluxTransformer2DModel"
    lengths = (LENGTH, LENGTH)
    guidance = 3.5
    # 256, 4096 and 1024 tokens, of pictures of 256, 1024 and 512 pixels
    shifts: ClassVar = {side: 2 * (math.exp(log),) for side, log in ((32, 0.5), (128, 1.15), (64, 0.63))}

    @torch.no_grad()
    def text(self, *captions: str) -> Text:
        return Text(*self.pipeline.encode_prompt(list(captions)))

    @torch.no_grad()
    def called(self, latents: Tensor, levels: Tensor, text: Text, *, guidance: float = 1.0, **changed: Any) -> Tensor:
        """The transformer's output as the pipeline calls it."""
        denoiser: Any = changed.pop("denoiser", self.pipeline.transformer)
        count, channels, height, width = latents.shape
        named = {
            "hidden_states": self.pipeline._pack_latents(latents, count, channels, height, width),
            "encoder_hidden_states": text.embeds,
            "pooled_projections": text.pooled,
            "timestep": levels,
            "guidance": torch.full((count,), guidance),
            "txt_ids": text.places,
            "img_ids": self.pipeline._prepare_latent_image_ids(count, height // 2, width // 2, CPU, torch.float32),
            **changed,
        }
        kept = ("guidance", "txt_ids", "img_ids")
        inputs = {name: value if name in kept else value.to(denoiser.dtype) for name, value in named.items()}
        (found,) = denoiser(**inputs, return_dict=False)
        return self.pipeline._unpack_latents(found, 8 * height, 8 * width, 8)

    def predicted_there(
        self, latents: Tensor, levels: Sequence[float], captions: Sequence[str], **models: nn.Module
    ) -> Tensor:
        return self.called(latents, torch.tensor(levels), self.text(*captions), **models)

    def text_encoders_there(self) -> dict[str, tuple[nn.Module, tuple[str, ...]]]:
        return {
            "text_encoder": (self.pipeline.text_encoder, ()),
            "text_encoder_2": (self.pipeline.text_encoder_2.encoder, ()),
        }

    def texts_there(self, *captions: str) -> list[dict[str, Tensor]]:
        """With the pipeline's padding."""
        text = self.text(*captions)
        return [{EMBEDS: embeds, POOLED: pooled} for embeds, pooled in zip(text.embeds, text.pooled, strict=True)]

    def encoders_in_float32(self) -> dict[str, Any]:
        return {}

    def sampled_there(self, noise: Tensor, caption: str) -> Tensor:
        text = self.text(caption)
        texts = {"prompt_embeds": text.embeds.float(), "pooled_prompt_embeds": text.pooled.float()}
        return unpacked(self.called_to_sample(packed(noise), **texts, guidance_scale=self.guidance), 4, 3)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = make_model(tmp_path_factory.mktemp("flux1") / "model")
    return load_reference(Loaded, folder, load_pipeline(folder, "FluxPipeline", ("text_encoder", "text_encoder_2")))


class TestContract(FlowContract, FluxPictures):
    """As every family."""


# -- the denoiser ----------------------------------------------------------------------------------


WRONG = {  # relative differences that a good guess makes, at least
    "guidance of samples": 0.05,
    "no padding": 0.02,
    "256 tokens": 0.01,
    "padding of zeros": 0.02,
    "picture on the first axes": 0.005,
    "patches by row, column, channel": 0.1,
    "no vector of CLIP": 0.05,
    "shift of the VAE forgotten": 0.005,
}


@pytest.mark.parametrize("guess", WRONG)
def test_wrong_guesses_are_seen_by_these_tests(loaded: Loaded, guess: str) -> None:
    """What the comparisons above would find."""
    latents, level, text = drawn(1, 4, 6, 8), torch.tensor([0.9]), loaded.text("a red circle")
    right = loaded.called(latents, level, text)
    length = len(loaded.family.tokenize("a red circle")["t5_ids"])
    changed: dict[str, Any] = {}
    if guess == "guidance of samples":
        changed["guidance"] = 3.5
    elif guess in ("no padding", "256 tokens"):
        tokens = length if guess == "no padding" else 256
        text = Text(text.embeds[:, :tokens], text.pooled, text.places[:tokens])
    elif guess == "padding of zeros":
        text = Text(text.embeds * (torch.arange(LENGTH) < length)[:, None], text.pooled, text.places)
    elif guess == "picture on the first axes":
        places = loaded.pipeline._prepare_latent_image_ids(1, 3, 4, CPU, torch.float32)
        changed["img_ids"] = places.roll(-1, -1)
    elif guess == "patches by row, column, channel":
        changed["hidden_states"] = packed(latents).unflatten(2, (4, 4)).transpose(2, 3).flatten(2)
    elif guess == "no vector of CLIP":
        text = Text(text.embeds, torch.zeros_like(text.pooled), text.places)
    else:
        latents = latents + 0.1159 * 0.3611
    found = loaded.called(latents, level, text, **changed)
    if guess == "patches by row, column, channel":
        found = unpacked(packed(found).unflatten(2, (4, 4)).transpose(2, 3).flatten(2), 3, 4)
    assert difference(found, right) > WRONG[guess]


# -- the process -----------------------------------------------------------------------------------


def test_guidance_is_1_in_training(loaded: Loaded) -> None:
    inputs = loaded.family.collate(loaded.inputs("a red circle", ""))
    assert loaded.family.conditioning(loaded.models, inputs)[GUIDANCE].tolist() == [1.0, 1.0]
