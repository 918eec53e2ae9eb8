"""Krea 2 against diffusers' own pipeline, on the same miniature. Every parameter is random, so no effect is hidden."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lorasmith.diffusion.flow import FlowMatching
from lorasmith.diffusion.sampling import denoise
from lorasmith.families import load_family
from lorasmith.families.flow_transformer import packed, unpacked
from lorasmith.families.krea2.family import Krea2
from lorasmith.families.krea2.text import DROPPED, MOST, TEMPLATE, encode
from lorasmith.families.loading import load_component
from lorasmith.families.qwen_text import qwen3_vl_builder
from lorasmith.families.qwen_transformer import EMBEDS, MASK
from lorasmith.families.recognize import recognize
from tests.families.flow import CAPTIONS, CPU, FlowTests, Reference, difference, drawn
from tests.families.krea2.miniature import TAPS, make_model


@dataclass(frozen=True)
class Loaded(Reference):
    denoiser = "Krea2Transformer2DModel"
    rounding = 5e-3
    float32 = 18

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


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    from diffusers import Krea2Pipeline

    folder = make_model(tmp_path_factory.mktemp("krea2") / "model")
    types = {"text_encoder": torch.bfloat16, "default": torch.float32}
    pipeline = Krea2Pipeline.from_pretrained(folder, dtype=types, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    family = load_family(recognize(folder))
    assert isinstance(family, Krea2)
    models = family.load_models(trained=[], dtype=torch.float32, to=CPU)
    return Loaded(folder, family, family.load_encoders(CPU), models, pipeline)


class TestAsEveryFamily(FlowTests):
    """Types, predictions and targets beside the pipeline's."""


# -- loading ---------------------------------------------------------------------------------------


def test_the_text_encoder_is_that_of_the_pipeline_without_its_eyes_as_far_as_it_is_read(loaded: Loaded) -> None:
    ours = loaded.encoders["text_encoder"]
    theirs = loaded.pipeline.text_encoder.language_model
    expected = theirs.state_dict()
    behind = {name for name in expected if name.startswith(("layers.4.", "norm."))}
    assert len(behind) > 1 and ours.state_dict().keys() == expected.keys() - behind
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.state_dict().items())
    assert {tensor.dtype for tensor in ours.parameters()} == {torch.bfloat16}
    frequencies = ours.get_buffer("rotary_emb.inv_freq")
    assert frequencies.dtype == torch.float32
    assert torch.allclose(frequencies, theirs.rotary_emb.inv_freq.float(), rtol=2**-8)


# -- pictures --------------------------------------------------------------------------------------


def test_tokens_of_a_picture_are_packed_as_the_pipeline_packs_them(loaded: Loaded) -> None:
    latents = drawn(2, 4, 6, 8)
    expected = loaded.pipeline._pack_latents(latents, 2, 4, 6, 8)
    assert torch.equal(packed(latents), expected)
    assert torch.equal(unpacked(expected, 3, 4), latents)


# -- text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("caption", [*CAPTIONS, "x " * 900])
def test_captions_are_encoded_as_by_the_pipeline_without_its_padding(loaded: Loaded, caption: str) -> None:
    embeds, mask = loaded.text(caption)
    found = loaded.inputs(caption)[0][EMBEDS]
    assert found.dtype == torch.bfloat16 and found.shape == (int(mask.sum()), len(TAPS), 24)
    assert difference(found, embeds[0][mask[0]]) < 5e-3  # of bfloat16


def test_captions_are_those_of_the_whole_text_encoder_to_the_bit(loaded: Loaded) -> None:
    family = loaded.family
    whole = load_component(
        family.weights, "text_encoder", qwen3_vl_builder, dtype=torch.bfloat16, to=CPU, allows_extra=False
    )
    for caption in CAPTIONS:
        expected = encode(whole, family.tokenize(caption)["token_ids"], TAPS)
        assert torch.equal(loaded.inputs(caption)[0][EMBEDS], expected)


def test_captions_in_float32_are_exactly_those_of_the_pipeline(loaded: Loaded) -> None:
    """Taps before the final norm, positions that count no padding, the end of the template behind the padding."""
    from transformers import Qwen3VLModel

    encoder = Qwen3VLModel.from_pretrained(loaded.folder / "text_encoder", dtype=torch.float32).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vars(loaded.pipeline), "text_encoder", encoder)
        for caption in CAPTIONS:
            embeds, mask = loaded.text(caption)
            ids = loaded.family.tokenize(caption)["token_ids"]
            assert difference(encode(encoder.language_model, ids, TAPS), embeds[0][mask[0]]) < 1e-5


# -- the denoiser ----------------------------------------------------------------------------------


def test_texts_of_a_batch_are_padded_to_a_few_lengths(loaded: Loaded) -> None:
    rows = loaded.inputs(*CAPTIONS)
    batch = loaded.family.collate(rows)
    assert batch[MASK].dtype == torch.bool and batch[MASK].sum(1).tolist() == [len(row[EMBEDS]) for row in rows]
    assert batch[EMBEDS].shape[1] == 128 and loaded.family.collate(rows[:2])[EMBEDS].shape[1] == 64


WRONG = {  # relative differences that a good guess makes, at least
    "time x 1000": 0.1,
    "time reversed": 0.1,
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
    if guess == "time x 1000":
        level = 1000 * level
    elif guess == "time reversed":
        level = 1 - level
    elif guess == "mask dropped":
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


def test_samples_are_those_of_the_pipeline(loaded: Loaded) -> None:
    """Its guidance counts from 0: what people call 4 is its 3. Larger pictures are shifted more."""
    family, noise = loaded.family, drawn(1, 4, 8, 6)
    (embeds, mask), (without, without_mask) = loaded.text("a red circle"), loaded.text("")
    theirs = loaded.pipeline(
        prompt_embeds=embeds.float(),
        prompt_embeds_mask=mask,
        negative_prompt_embeds=without.float(),
        negative_prompt_embeds_mask=without_mask,
        height=64,
        width=48,
        num_inference_steps=5,
        guidance_scale=3.0,
        latents=packed(noise),
        output_type="latent",
    ).images
    conditioning = family.conditioning(loaded.models, family.collate(loaded.inputs("", "a red circle")))

    def predict(sample: Tensor, levels: Tensor) -> Tensor:
        with torch.no_grad():
            both = torch.cat([sample, sample]), torch.cat([levels, levels])
            without, with_caption = family.predict(loaded.models, *both, conditioning).chunk(2)
        return without + 4 * (with_caption - without)

    found = denoise(predict, family.noise_process(), noise, noise, denoising_strength=1.0, steps=5)
    assert difference(packed(found), theirs) < 1e-2  # of the texts in bfloat16


@pytest.mark.parametrize(("side", "logarithm"), [(32, 0.5), (128, 0.90625), (160, 1.15)])
def test_the_shift_is_that_of_the_resolution(loaded: Loaded, side: int, logarithm: float) -> None:
    """256, 4096 and 6400 tokens, of pictures of 256, 1024 and 1280 pixels. That of Turbo's samples is always the
    same."""
    process = loaded.family.noise_process()
    turbo = load_family(replace(loaded.family.weights, distilled="Turbo")).noise_process()
    assert isinstance(turbo, FlowMatching)
    for shift in (process.training_shift, process.sampling_shift, turbo.training_shift):
        assert math.log(shift.factor((1, 16, side, side))) == pytest.approx(logarithm)
    assert math.log(turbo.sampling_shift.factor((1, 16, side, side))) == pytest.approx(1.15)
    assert np.isclose(
        math.exp(logarithm) * 0.5 / (1 + (math.exp(logarithm) - 1) * 0.5),
        float(process.timesteps(torch.tensor([0.5]), (1, 16, side, side))),
    )
