"""Krea 2 against diffusers' own pipeline, on the same miniature. Every parameter is random, so no effect is hidden."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from lorasmith.diffusion.flow import FlowMatching
from lorasmith.families import load_family
from lorasmith.families.flow_transformer import packed, unpacked
from lorasmith.families.krea2.family import Krea2
from lorasmith.families.krea2.text import DROPPED, MOST, TEMPLATE, encode
from lorasmith.families.loading import load_component
from lorasmith.families.qwen_text import qwen3_vl_builder
from lorasmith.families.qwen_transformer import EMBEDS
from tests.contracts.flow_contract import FlowContract
from tests.families.flow import CAPTIONS, CPU, Reference, difference, drawn, load_pipeline, load_reference
from tests.families.krea2.miniature import TAPS, make_model


@dataclass(frozen=True)
class Loaded(Reference):
    kind = Krea2
    denoiser = "Krea2Transformer2DModel"
    rounding = 5e-3
    float32 = 18
    text_rounding = 5e-3
    lengths = (128, 64)
    sample_rounding = 1e-2  # of the texts in bfloat16
    # 256, 4096 and 6400 tokens, of pictures of 256, 1024 and 1280 pixels
    shifts: ClassVar = {side: 2 * (math.exp(log),) for side, log in ((32, 0.5), (128, 0.90625), (160, 1.15))}

    @torch.no_grad()
    def text(self, *captions: str) -> tuple[Tensor, Tensor]:
        """What the pipeline makes of captions, padded to 512 tokens, and its mask."""
        embeds, mask = self.pipeline.encode_prompt(list(captions))
        return embeds, mask

    def theirs(self, latents: Tensor, levels: Sequence[float], captions: Sequence[str], **models: nn.Module) -> Tensor:
        """The transformer's output as the pipeline calls it, each text padded to 512 tokens."""
        denoiser = models.get("denoiser", self.pipeline.transformer)
        embeds, mask = self.text(*captions)
        height, width = latents.shape[2:]
        tokens = self.pipeline._pack_latents(latents, len(latents), latents.shape[1], height, width)
        with torch.no_grad():
            (found,) = denoiser(
                hidden_states=tokens.to(denoiser.dtype),
                encoder_hidden_states=embeds.to(denoiser.dtype),
                timestep=torch.tensor(levels).to(denoiser.dtype),
                position_ids=self.pipeline.prepare_position_ids(embeds.shape[1], height // 2, width // 2, CPU),
                encoder_attention_mask=mask,
                return_dict=False,
            )
        return self.pipeline._unpack_latents(found, 8 * height, 8 * width)[:, :, 0]

    def predicted_there(
        self, latents: Tensor, levels: Sequence[float], captions: Sequence[str], **models: nn.Module
    ) -> Tensor:
        return self.theirs(latents, levels, captions, **models)

    def text_encoders_there(self) -> dict[str, tuple[nn.Module, tuple[str, ...]]]:
        return {"text_encoder": (self.pipeline.text_encoder.language_model, ("layers.4.", "norm."))}

    def texts_there(self, *captions: str) -> list[dict[str, Tensor]]:
        return [{EMBEDS: embeds[is_text]} for embeds, is_text in zip(*self.text(*captions), strict=True)]

    def encoders_in_float32(self) -> dict[str, Any]:
        from transformers import Qwen3VLModel

        folder = self.folder / "text_encoder"
        return {"text_encoder": Qwen3VLModel.from_pretrained(folder, dtype=torch.float32).eval()}

    def encoded(self, encoders: Mapping[str, Any], caption: str) -> Tensor:
        return encode(encoders["text_encoder"].language_model, self.family.tokenize(caption)["token_ids"], TAPS)

    def sampled_there(self, noise: Tensor, caption: str) -> Tensor:
        """Its guidance counts from 0: what people call 4 is its 3."""
        (embeds, mask), (without, without_mask) = self.text(caption), self.text("")
        texts = {"prompt_embeds": embeds.float(), "negative_prompt_embeds": without.float()}
        masks = {"prompt_embeds_mask": mask, "negative_prompt_embeds_mask": without_mask}
        return unpacked(self.called_to_sample(packed(noise), **texts, **masks, guidance_scale=3.0), 4, 3)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = make_model(tmp_path_factory.mktemp("krea2") / "model")
    return load_reference(Loaded, folder, load_pipeline(folder, "Krea2Pipeline"))


class TestContract(FlowContract):
    """As every family."""


# -- pictures --------------------------------------------------------------------------------------


def test_tokens_of_a_picture_are_packed_as_the_pipeline_packs_them(loaded: Loaded) -> None:
    latents = drawn(2, 4, 6, 8)
    expected = loaded.pipeline._pack_latents(latents, 2, 4, 6, 8)
    assert torch.equal(packed(latents), expected)
    assert torch.equal(unpacked(expected, 3, 4), latents)


# -- text ------------------------------------------------------------------------------------------


def test_captions_are_those_of_the_whole_text_encoder_to_the_bit(loaded: Loaded) -> None:
    family = loaded.family
    whole = load_component(
        family.weights, "text_encoder", qwen3_vl_builder, dtype=torch.bfloat16, to=CPU, allows_extra=False
    )
    for caption in CAPTIONS:
        expected = encode(whole, family.tokenize(caption)["token_ids"], TAPS)
        assert torch.equal(loaded.inputs(caption)[0][EMBEDS], expected)


# -- the denoiser ----------------------------------------------------------------------------------


WRONG = {  # relative differences that a good guess makes, at least
    "mask dropped": 0.02,
    "positions uncounted": 0.02,
    "patches by row, column, channel": 0.1,
    "a tap beside": 0.05,
}


@pytest.mark.parametrize("guess", WRONG)
def test_wrong_guesses_are_seen_by_these_tests(loaded: Loaded, guess: str) -> None:
    """What the comparisons above would find."""
    latents, levels = drawn(1, 4, 6, 8), (0.9,)
    right = loaded.theirs(latents, levels, ["a red circle"])
    embeds, mask = loaded.text("a red circle")
    text, level, tokens = embeds.float(), torch.tensor(levels), packed(latents)
    counted: Tensor | None = mask
    positions = loaded.pipeline.prepare_position_ids(512, 3, 4, CPU)
    if guess == "mask dropped":
        counted = None
    elif guess == "positions uncounted":
        text = _without_counted_positions(loaded, "a red circle")
    elif guess == "patches by row, column, channel":
        tokens = tokens.unflatten(2, (4, 4)).transpose(2, 3).flatten(2)
    else:
        text = _with_taps(loaded, "a red circle", [tap - 1 for tap in TAPS])
    with torch.no_grad():
        (found,) = loaded.pipeline.transformer(tokens, text, level, positions, counted, return_dict=False)
    if guess == "patches by row, column, channel":
        found = found.unflatten(2, (4, 4)).transpose(2, 3).flatten(2)
    assert difference(unpacked(found, 3, 4), right) > WRONG[guess]


def _without_counted_positions(loaded: Loaded, caption: str) -> Tensor:
    """As if the padding took positions: what the encoder does when it is given none."""
    encoder, tokenizer = loaded.pipeline.text_encoder, loaded.pipeline.tokenizer
    words = tokenizer([TEMPLATE.before + caption], padding="max_length", max_length=DROPPED + MOST, return_tensors="pt")
    after = tokenizer([TEMPLATE.after], return_tensors="pt")
    ids = torch.cat([words.input_ids, after.input_ids], 1)
    mask = torch.cat([words.attention_mask, after.attention_mask], 1).bool()
    with torch.no_grad():
        states = encoder.language_model(ids, mask, output_hidden_states=True).hidden_states
    return torch.stack([states[tap] for tap in TAPS], 2)[:, DROPPED:].float()


def _with_taps(loaded: Loaded, caption: str, taps: list[int]) -> Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vars(loaded.pipeline), "text_encoder_select_layers", taps)
        return loaded.text(caption)[0].float()


# -- the process -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "logarithm"), [(32, 0.5), (128, 0.90625)])
def test_samples_of_turbo_have_one_shift_whatever_the_size(loaded: Loaded, side: int, logarithm: float) -> None:
    """It is trained with that of the resolution."""
    process, shape = load_family(replace(loaded.family.weights, distilled="Turbo")).noise_process(), (1, 16, side, side)
    assert isinstance(process, FlowMatching)
    assert math.log(process.training_shift.factor(shape)) == pytest.approx(logarithm)
    assert math.log(process.sampling_shift.factor(shape)) == pytest.approx(1.15)
