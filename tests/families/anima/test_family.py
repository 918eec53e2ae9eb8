"""Anima against diffusers' own modular pipeline, on the same miniature. Every parameter is random, so no effect is
hidden."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lorasmith.diffusion.sampling import denoise
from lorasmith.families import load_family
from lorasmith.families.anima.family import CONDITIONER, EMBEDS, TEXT, Anima
from lorasmith.families.anima.layout import MOST
from lorasmith.families.anima.text import encode
from lorasmith.families.recognize import recognize
from lorasmith.families.weights import TextSettings
from tests.families.anima.miniature import make_model
from tests.families.anima.torchvision import TRANSFORMS
from tests.families.flow import CAPTIONS, CPU, FlowTests, Reference, difference, drawn


@dataclass(frozen=True)
class Loaded(Reference):
    denoiser = "CosmosTransformer3DModel"
    latents = (4, 16, 20)
    rounding = 5e-3

    @torch.no_grad()
    def text(self, *captions: str) -> Tensor:
        """What the pipeline's own steps make of captions: (B, 512, width)."""
        from diffusers.modular_pipelines.anima.before_denoise import AnimaTextConditioningStep
        from diffusers.modular_pipelines.anima.encoders import AnimaTextEncoderStep

        asked = {"prepare_unconditional_embeds": False, "device": CPU}
        states = AnimaTextEncoderStep.encode_prompt(self.pipeline, list(captions), **asked)
        kept = {name: value for name, value in states.items() if value is not None}
        conditioner = self.pipeline.text_conditioner
        types = {"conditioning_dtype": conditioner.dtype, "output_dtype": conditioner.dtype}
        return AnimaTextConditioningStep._condition_prompt_embeds(self.pipeline, **kept, device=CPU, **types)

    def theirs(self, latents: Tensor, levels: Sequence[float], captions: Sequence[str], **models: nn.Module) -> Tensor:
        """The transformer's output as the pipeline calls it."""
        denoiser: Any = models.get("denoiser", self.pipeline.transformer)
        height, width = latents.shape[2:]
        with torch.no_grad():
            (found,) = denoiser(
                hidden_states=latents[:, :, None].to(denoiser.dtype),
                timestep=torch.tensor(levels).to(denoiser.dtype),
                encoder_hidden_states=self.text(*captions).to(denoiser.dtype),
                padding_mask=torch.zeros(1, 1, 8 * height, 8 * width, dtype=denoiser.dtype),
                return_dict=False,
            )
        return found[:, :, 0]

    def predicted_there(
        self, latents: Tensor, levels: Sequence[float], captions: Sequence[str], **models: nn.Module
    ) -> Tensor:
        return self.theirs(latents, levels, captions, **models)


@pytest.fixture(scope="module", autouse=True)
def _torchvision() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers.models.transformers.transformer_cosmos.transforms", TRANSFORMS, raising=False)
        yield


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    from diffusers import ModularPipeline

    folder = make_model(tmp_path_factory.mktemp("anima") / "model")
    pipeline = ModularPipeline.from_pretrained(folder, local_files_only=True)
    types = {"text_encoder": torch.bfloat16, "text_conditioner": torch.bfloat16, "default": torch.float32}
    pipeline.load_components(dtype=types, local_files_only=True)
    family = load_family(recognize(folder))
    assert isinstance(family, Anima)
    models = family.load_models(trained=[], dtype=torch.float32, to=CPU)
    return Loaded(folder, family, family.load_encoders(CPU), models, pipeline)


class TestAsEveryFamily(FlowTests):
    """Types, predictions and targets beside the pipeline's."""


# -- loading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("component", "buffer"), [(TEXT, "rotary_emb.inv_freq"), (CONDITIONER, "rotary_emb.inv_freq")])
def test_text_encoder_and_conditioner_are_those_of_the_pipeline(loaded: Loaded, component: str, buffer: str) -> None:
    ours, theirs = loaded.encoders[component], getattr(loaded.pipeline, component)
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.state_dict().items())
    assert {tensor.dtype for tensor in ours.parameters()} == {torch.bfloat16}
    frequencies = ours.get_buffer(buffer)
    assert frequencies.dtype == torch.float32
    assert torch.allclose(frequencies, theirs.get_buffer(buffer).float(), rtol=2**-8)


# -- text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("caption", [*CAPTIONS, "red " * 900])
def test_captions_are_encoded_as_by_the_pipeline(loaded: Loaded, caption: str) -> None:
    """The pipeline pads a text with zeros to 512 tokens: what is kept is without them."""
    (expected,) = loaded.text(caption)
    found = loaded.inputs(caption)[0][EMBEDS]
    tokens = loaded.family.tokenize(caption)
    assert found.dtype == torch.bfloat16 and found.shape == (len(tokens["t5_token_ids"]), 24)
    assert max(map(len, tokens.values())) <= MOST == expected.shape[0]
    assert difference(found, expected[: len(found)]) < 5e-3 and not expected[len(found) :].any()


def test_captions_in_float32_are_exactly_those_of_a_batch_of_the_pipeline(loaded: Loaded) -> None:
    """States behind the final norm; the padding of a batch, which it masks, changes nothing."""
    from diffusers import AnimaTextConditioner
    from transformers import Qwen3Model

    encoder = Qwen3Model.from_pretrained(loaded.folder / TEXT, dtype=torch.float32).eval()
    conditioner = AnimaTextConditioner.from_pretrained(loaded.folder / CONDITIONER, dtype=torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vars(loaded.pipeline), TEXT, encoder)
        patch.setitem(vars(loaded.pipeline), CONDITIONER, conditioner)
        expected = loaded.text(*CAPTIONS)
        for caption, text in zip(CAPTIONS, expected, strict=True):
            tokens = loaded.family.tokenize(caption)
            found = encode(encoder, conditioner, tokens["token_ids"], tokens["t5_token_ids"])
            assert difference(found, text[: len(found)]) < 1e-5


CUT = {  # caption -> tokens that are asked for, the first tag that is not seen whole
    "a, a, a, a, red": (12, "red"),  # 9 tokens of Qwen3, 13 of T5
    "photograph, red": (4, "photograph"),  # a token of T5, a letter each in the vocabulary of the miniature
    "a red circle": (None, ""),
    "red, " * 300 + "blue": (None, "red"),
}


@pytest.mark.parametrize("caption", CUT)
def test_a_caption_ends_where_either_tokenizer_cuts_it(loaded: Loaded, caption: str) -> None:
    tokens, unseen = CUT[caption]
    family = load_family(loaded.family.weights, TextSettings(max_tokens=tokens))
    assert family.caption_tokens == (tokens or MOST) and family.first_unseen_tag(caption) == unseen


# -- the denoiser ----------------------------------------------------------------------------------


def test_texts_of_a_batch_are_as_long_as_the_pipelines(loaded: Loaded) -> None:
    """With its own texts, predictions are its to the rounding of float32."""
    assert loaded.family.collate(loaded.inputs(*CAPTIONS))[EMBEDS].shape == (3, MOST, 24)
    latents, levels = drawn(3, 4, 16, 20), (0.9, 0.5, 0.1)
    padded = [{EMBEDS: text} for text in loaded.text(*CAPTIONS)]
    assert difference(loaded.predict(latents, levels, padded), loaded.theirs(latents, levels, CAPTIONS)) < 1e-5


def test_positions_go_on_beyond_the_table_of_the_config(loaded: Loaded) -> None:
    """Diffusers' class fails there, unless its config has more."""
    from diffusers import CosmosTransformer3DModel

    folder, latents = loaded.folder / "transformer", drawn(1, 4, 2, 80)  # 40 tokens in a row, where the config has 32
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        loaded.theirs(latents, (0.7,), ["a red circle"])
    theirs = CosmosTransformer3DModel.from_pretrained(folder, max_size=[4, 80, 80])
    found = loaded.predict(latents, (0.7,), loaded.inputs("a red circle"))
    assert difference(found, loaded.theirs(latents, (0.7,), ["a red circle"], denoiser=theirs)) < 1e-5


WRONG = {  # relative differences that a good guess makes, at least
    "time x 1000": 0.1,
    "time reversed": 0.1,
    "text without its zeros": 0.01,
    "states before the final norm": 0.01,
    "no conditioner": 0.02,
    "no padding mask": 0.02,
    "positions not stretched": 0.005,
}


@pytest.mark.parametrize("guess", WRONG)
def test_wrong_guesses_are_seen_by_these_tests(loaded: Loaded, guess: str) -> None:
    """What the comparisons above would find."""
    latents, levels, caption = drawn(1, 4, 16, 20), (0.9,), CAPTIONS[2]
    right = loaded.theirs(latents, levels, [caption])
    rows, family, models = [{EMBEDS: loaded.text(caption)[0]}], loaded.family, loaded.models
    tokens = family.tokenize(caption)
    if guess == "time x 1000":
        levels = (900.0,)
    elif guess == "time reversed":
        levels = (0.1,)
    elif guess == "states before the final norm":
        rows = [{EMBEDS: _before_the_norm(loaded, tokens)}]
    elif guess == "no conditioner":
        rows = [{EMBEDS: loaded.encoders[CONDITIONER].get_submodule("embed")(tokens["t5_token_ids"])}]
    if guess in ("text without its zeros", "no padding mask"):
        text = rows[0][EMBEDS][None]
        text = text[:, : len(tokens["t5_token_ids"])] if guess == "text without its zeros" else text
        mask = torch.full((1, 1, 16, 20), float(guess == "no padding mask"))
        with torch.no_grad():
            found = loaded.pipeline.transformer(
                latents[:, :, None], torch.tensor(levels), text.float(), padding_mask=mask, return_dict=False
            )[0][:, :, 0]
    elif guess == "positions not stretched":
        rope: Any = models["denoiser"].get_submodule("rope")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rope, "h_ntk_factor", 1.0)
            patch.setattr(rope, "w_ntk_factor", 1.0)
            found = loaded.predict(latents, levels, rows)
    else:
        found = loaded.predict(latents, levels, rows)
    assert difference(found, right) > WRONG[guess]


@torch.no_grad()
def _before_the_norm(loaded: Loaded, tokens: Mapping[str, Tensor]) -> Tensor:
    encoder: Any = loaded.encoders[TEXT]
    states: list[Tensor] = []
    with encoder.norm.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0])):
        encoder(input_ids=tokens["token_ids"][None])
    text: Tensor = loaded.encoders[CONDITIONER](states[0], tokens["t5_token_ids"][None])[0]
    return text


# -- the process -----------------------------------------------------------------------------------


def test_samples_are_those_of_the_pipeline(loaded: Loaded) -> None:
    family, noise = loaded.family, drawn(1, 4, 8, 6)
    asked = {"height": 64, "width": 48, "num_inference_steps": 5, "latents": noise[:, :, None]}
    theirs = loaded.pipeline(prompt="a red circle", **asked, output="latents")[:, :, 0]
    conditioning = family.conditioning(loaded.models, family.collate(loaded.inputs("", "a red circle")))

    def predict(sample: Tensor, levels: Tensor) -> Tensor:
        with torch.no_grad():
            both = torch.cat([sample, sample]), torch.cat([levels, levels])
            without, with_caption = family.predict(loaded.models, *both, conditioning).chunk(2)
        return without + family.traits.sampling.guidance * (with_caption - without)

    found = denoise(predict, family.noise_process(), noise, noise, denoising_strength=1.0, steps=5)
    assert difference(found, theirs) < 1e-2  # of the texts in bfloat16


def test_pictures_are_encoded_and_decoded_as_by_the_pipeline(loaded: Loaded) -> None:
    from diffusers.modular_pipelines.anima.encoders import encode_vae_image

    pixels = drawn(3, 32, 48).clamp(-1, 1)
    with torch.no_grad():
        expected = encode_vae_image(pixels[None], loaded.pipeline.vae, None, CPU, torch.float32, 4)[:, :, 0]
    found = loaded.family.encode_image(loaded.encoders, pixels)["latents"][None]
    assert difference(found, expected) < 1e-5


def test_pictures_are_sampled_with_a_shift_and_trained_without(loaded: Loaded) -> None:
    process = loaded.family.noise_process()
    assert process.sampling_shift.factor((1, 4, 8, 8)) == 3.0 and process.training_shift.factor((1, 4, 8, 8)) == 1.0
    assert float(process.timesteps(torch.tensor([0.5]), (1, 4, 8, 8))) == 0.5
