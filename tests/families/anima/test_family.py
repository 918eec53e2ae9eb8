"""Anima against diffusers' own modular pipeline, on the same miniature. Every parameter is random, so no effect is
hidden."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from lorasmith.families import load_family
from lorasmith.families.anima.family import CONDITIONER, EMBEDS, TEXT, Anima
from lorasmith.families.anima.layout import MOST
from lorasmith.families.anima.text import encode
from lorasmith.families.weights import TextSettings
from tests.contracts.flow_contract import FlowContract
from tests.families.anima.miniature import make_model
from tests.families.anima.torchvision import TRANSFORMS
from tests.families.flow import CAPTIONS, CPU, STEPS, Reference, difference, drawn, load_reference


@dataclass(frozen=True)
class Loaded(Reference):
    kind = Anima
    denoiser = "CosmosTransformer3DModel"
    latents = (4, 16, 20)
    rounding = 5e-3
    captions: ClassVar = (*CAPTIONS, "red " * 900)
    text_rounding = 5e-3
    lengths = (MOST, MOST)
    sample_rounding = 1e-2  # of the texts in bfloat16
    shifts: ClassVar = {8: (1.0, 3.0), 64: (1.0, 3.0)}

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

    def text_encoders_there(self) -> dict[str, tuple[nn.Module, tuple[str, ...]]]:
        return {component: (getattr(self.pipeline, component), ()) for component in (TEXT, CONDITIONER)}

    def texts_there(self, *captions: str) -> list[dict[str, Tensor]]:
        """The pipeline pads a text with zeros to 512 tokens: what is kept is without them."""
        found = []
        for caption, text in zip(captions, self.text(*captions), strict=True):
            tokens = self.family.tokenize(caption)
            count = len(tokens["t5_token_ids"])
            assert max(map(len, tokens.values())) <= MOST == len(text) and not text[count:].any()
            found.append({EMBEDS: text[:count]})
        return found

    def encoders_in_float32(self) -> dict[str, Any]:
        """States behind the final norm."""
        from diffusers import AnimaTextConditioner
        from transformers import Qwen3Model

        kinds: dict[str, Any] = {TEXT: Qwen3Model, CONDITIONER: AnimaTextConditioner}
        return {
            component: kind.from_pretrained(self.folder / component, dtype=torch.float32).eval()
            for component, kind in kinds.items()
        }

    def encoded(self, encoders: Mapping[str, Any], caption: str) -> Tensor:
        tokens = self.family.tokenize(caption)
        return encode(encoders[TEXT], encoders[CONDITIONER], tokens["token_ids"], tokens["t5_token_ids"])

    def sampled_there(self, noise: Tensor, caption: str) -> Tensor:
        asked = {"height": 64, "width": 48, "num_inference_steps": STEPS, "latents": noise[:, :, None]}
        sample: Tensor = self.pipeline(prompt=caption, **asked, output="latents")
        return sample[:, :, 0]


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
    types = {TEXT: torch.bfloat16, CONDITIONER: torch.bfloat16, "default": torch.float32}
    pipeline.load_components(dtype=types, local_files_only=True)
    return load_reference(Loaded, folder, pipeline)


class TestContract(FlowContract):
    """As every family."""


# -- text ------------------------------------------------------------------------------------------


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


def test_of_the_pipelines_texts_predictions_are_its_to_the_rounding_of_float32(loaded: Loaded) -> None:
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
    if guess == "states before the final norm":
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


def test_pictures_are_encoded_and_decoded_as_by_the_pipeline(loaded: Loaded) -> None:
    from diffusers.modular_pipelines.anima.encoders import encode_vae_image

    pixels = drawn(3, 32, 48).clamp(-1, 1)
    with torch.no_grad():
        expected = encode_vae_image(pixels[None], loaded.pipeline.vae, None, CPU, torch.float32, 4)[:, :, 0]
    found = loaded.family.encode_image(loaded.encoders, pixels)["latents"][None]
    assert difference(found, expected) < 1e-5
