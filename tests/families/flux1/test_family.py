"""FLUX.1 dev against diffusers' own pipeline, on the same miniature, whose every parameter is random."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lorasmith.diffusion.sampling import denoise
from lorasmith.families import load_family
from lorasmith.families.flow_transformer import packed, unpacked
from lorasmith.families.flux1.family import EMBEDS, GUIDANCE, POOLED, Flux1
from lorasmith.families.flux1.layout import LENGTH
from lorasmith.families.recognize import recognize
from tests.families.flow import CAPTIONS, CPU, FlowTests, Reference, difference, drawn
from tests.families.flux1.miniature import POOLED as POOLED_WIDTH
from tests.families.flux1.miniature import WIDTH, make_model


@dataclass(frozen=True)
class Text:
    """What the pipeline makes of captions."""

    embeds: Tensor
    pooled: Tensor
    places: Tensor


@dataclass(frozen=True)
class Loaded(Reference):
    denoiser = "FluxTransformer2DModel"

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


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    from diffusers import FluxPipeline

    folder = make_model(tmp_path_factory.mktemp("flux1") / "model")
    types = {"text_encoder": torch.bfloat16, "text_encoder_2": torch.bfloat16, "default": torch.float32}
    pipeline = FluxPipeline.from_pretrained(folder, dtype=types, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    family = load_family(recognize(folder))
    assert isinstance(family, Flux1)
    models = family.load_models(trained=[], dtype=torch.float32, to=CPU)
    return Loaded(folder, family, family.load_encoders(CPU), models, pipeline)


class TestAsEveryFamily(FlowTests):
    """Types, predictions and targets beside the pipeline's."""


# -- loading ---------------------------------------------------------------------------------------


def test_the_text_encoders_are_those_of_the_pipeline(loaded: Loaded) -> None:
    ours, theirs = loaded.encoders["text_encoder_2"].state_dict(), loaded.pipeline.text_encoder_2.state_dict()
    expected = {name.removeprefix("encoder."): tensor for name, tensor in theirs.items() if name != "shared.weight"}
    assert ours.keys() == expected.keys()
    assert all(tensor.dtype == expected[name].dtype == torch.bfloat16 for name, tensor in ours.items())
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.items())
    ours, theirs = loaded.encoders["text_encoder"].state_dict(), loaded.pipeline.text_encoder.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


# -- pictures --------------------------------------------------------------------------------------


def test_latents_are_shifted_and_scaled_as_the_pipeline_unscales_them(loaded: Loaded) -> None:
    pixels = drawn(3, 48, 64).clamp(-1, 1)
    vae = loaded.pipeline.vae
    found = loaded.family.encode_image(loaded.encoders, pixels)["latents"]
    with torch.no_grad():
        mean = vae.encode(pixels[None]).latent_dist.mode()
        picture = vae.decode(found[None] / 0.3611 + 0.1159).sample
    assert difference(found[None], (mean - 0.1159) * 0.3611) < 1e-6
    assert difference(loaded.family.decode_latents(loaded.encoders, found[None]), picture) < 1e-6


# -- text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("caption", [*CAPTIONS, "x " * 900])
def test_captions_are_encoded_as_by_the_pipeline_with_its_padding(loaded: Loaded, caption: str) -> None:
    text, (found,) = loaded.text(caption), loaded.inputs(caption)
    assert found[EMBEDS].dtype == found[POOLED].dtype == torch.bfloat16
    assert found[EMBEDS].shape == (LENGTH, WIDTH) and found[POOLED].shape == (POOLED_WIDTH,)
    assert torch.equal(found[EMBEDS], text.embeds[0]) and torch.equal(found[POOLED], text.pooled[0])


# -- the denoiser ----------------------------------------------------------------------------------


WRONG = {  # relative differences that a good guess makes, at least
    "time x 1000": 0.1,
    "time reversed": 0.1,
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
    if guess == "time x 1000":
        level = 1000 * level
    elif guess == "time reversed":
        level = 1 - level
    elif guess == "guidance of samples":
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


def test_samples_are_those_of_the_pipeline(loaded: Loaded) -> None:
    """Guidance is an input, and larger pictures are shifted more."""
    family, noise = loaded.family, drawn(1, 4, 8, 6)
    text = loaded.text("a red circle")
    theirs = loaded.pipeline(
        prompt_embeds=text.embeds.float(),
        pooled_prompt_embeds=text.pooled.float(),
        height=64,
        width=48,
        num_inference_steps=5,
        guidance_scale=3.5,
        latents=packed(noise),
        output_type="latent",
    ).images
    conditioning = family.conditioning(loaded.models, family.collate(loaded.inputs("a red circle")))
    conditioning[family.traits.sampling.guidance_input] = torch.tensor([3.5])

    def predict(sample: Tensor, levels: Tensor) -> Tensor:
        with torch.no_grad():
            return family.predict(loaded.models, sample, levels, conditioning)

    found = denoise(predict, family.noise_process(), noise, noise, denoising_strength=1.0, steps=5)
    assert difference(packed(found), theirs) < 1e-4


def test_guidance_is_1_in_training(loaded: Loaded) -> None:
    inputs = loaded.family.collate(loaded.inputs("a red circle", ""))
    assert loaded.family.conditioning(loaded.models, inputs)[GUIDANCE].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("side", "logarithm"), [(32, 0.5), (128, 1.15), (64, 0.63)])
def test_the_shift_is_that_of_the_resolution(loaded: Loaded, side: int, logarithm: float) -> None:
    """256, 4096 and 1024 tokens, of pictures of 256, 1024 and 512 pixels."""
    process = loaded.family.noise_process()
    for shift in (process.training_shift, process.sampling_shift):
        assert math.log(shift.factor((1, 16, side, side))) == pytest.approx(logarithm)
