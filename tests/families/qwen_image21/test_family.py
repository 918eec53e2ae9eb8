"""Qwen-Image 2.1 against diffusers' own pipeline, on the same miniature. Every parameter is random, so no effect is
hidden."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from lorasmith.diffusion.sampling import denoise
from lorasmith.families import load_family
from lorasmith.families.qwen_image21.family import QwenImage21
from lorasmith.families.qwen_image21.text import encode
from lorasmith.families.qwen_transformer import EMBEDS, MASK
from lorasmith.families.recognize import recognize
from tests.families.flow import CAPTIONS, CPU, FlowTests, Reference, difference, drawn
from tests.families.qwen_image21.miniature import load_pipeline, make_model


@dataclass(frozen=True)
class Loaded(Reference):
    denoiser = "QwenImage21Transformer2DModel"
    latents = (8, 4, 6)

    @torch.no_grad()
    def text(self, *captions: str) -> tuple[Tensor, Tensor | None]:
        """What the pipeline makes of captions, and its mask."""
        embeds, mask, _ = self.pipeline.encode_prompt(list(captions), device=CPU)
        return embeds, mask

    @torch.no_grad()
    def theirs(
        self, latents: Tensor, levels: Sequence[float], embeds: Tensor, mask: Tensor | None = None, **models: nn.Module
    ) -> Tensor:
        """The transformer's output as the pipeline calls it."""
        denoiser = models.get("denoiser", self.pipeline.transformer)
        height, width = latents.shape[2:]
        is_picture = torch.zeros(embeds.shape[:2], dtype=torch.bool)
        slots = torch.ones(len(latents), height * width // 4, dtype=torch.bool)
        (found,) = denoiser(
            hidden_states=latents.flatten(2).transpose(1, 2).to(denoiser.dtype),
            encoder_hidden_states=embeds.to(denoiser.dtype),
            encoder_hidden_states_mask=mask,
            timestep=torch.tensor(levels).to(denoiser.dtype),
            img_shapes=[[(1, height, width)]] * len(latents),
            img_mask=torch.cat([is_picture, slots], dim=1),
            return_dict=False,
        )
        tokens = found[:, -height * width :]
        return self.pipeline._unpack_latents(tokens, 16 * height, 16 * width, 16)[:, :, 0]

    def predicted_there(
        self, latents: Tensor, levels: Sequence[float], captions: Sequence[str], **models: nn.Module
    ) -> Tensor:
        """Each alone, of our texts: the pipeline's differ by the rounding of bfloat16."""
        rows = enumerate(self.inputs(*captions))
        each = [self.theirs(latents[n : n + 1], levels[n : n + 1], row[EMBEDS][None], **models) for n, row in rows]
        return torch.cat(each)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = make_model(tmp_path_factory.mktemp("qwen_image21") / "model")
    pipeline = load_pipeline(folder)
    family = load_family(recognize(folder))
    assert isinstance(family, QwenImage21)
    models = family.load_models(trained=[], dtype=torch.float32, to=CPU)
    return Loaded(folder, family, family.load_encoders(CPU), models, pipeline)


class TestAsEveryFamily(FlowTests):
    """Types, predictions and targets beside the pipeline's."""


# -- loading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_frequencies_of_the_level_stay_as_they_are(loaded: Loaded, dtype: torch.dtype) -> None:
    """They are in no file, and `.to(bfloat16)` would round them."""
    theirs = dict(loaded.denoiser_there(dtype).named_buffers())
    ours = loaded.family.load_models(trained=[], dtype=dtype, to=CPU)["denoiser"]
    found = dict(ours.named_buffers())
    assert found.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
    assert ours.get_buffer("time_text_embed.time_proj.freqs").dtype == torch.float32


def test_the_text_encoder_is_that_of_the_pipeline_without_its_eyes(loaded: Loaded) -> None:
    ours, theirs = loaded.encoders["text_encoder"], loaded.pipeline.text_encoder.model.language_model
    expected = {name: tensor for name, tensor in theirs.state_dict().items() if name != "norm.weight"}
    assert ours.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.state_dict().items())
    assert {tensor.dtype for tensor in ours.parameters()} == {torch.bfloat16}


# -- text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("caption", CAPTIONS)
def test_captions_are_encoded_as_by_the_pipeline(loaded: Loaded, caption: str) -> None:
    embeds, mask = loaded.text(caption)
    found = loaded.inputs(caption)[0][EMBEDS]
    assert mask is None and found.dtype == torch.bfloat16 and found.shape == embeds[0].shape
    assert difference(found, embeds[0]) < 5e-3  # of bfloat16


def test_captions_in_float32_are_exactly_those_of_the_pipeline(loaded: Loaded) -> None:
    """Before the final norm, without the system's part; with the norm they would be others."""
    from transformers import Qwen3VLForConditionalGeneration

    encoder = Qwen3VLForConditionalGeneration.from_pretrained(loaded.folder / "text_encoder", dtype=torch.float32)
    ours = loaded.family.load_encoders(CPU, only=["text_encoder"])["text_encoder"].float()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vars(loaded.pipeline), "text_encoder", encoder.eval())
        together, mask = loaded.text(*CAPTIONS)
        assert mask is not None
        for caption, beside, is_text in zip(CAPTIONS, together, mask, strict=True):
            alone, _ = loaded.text(caption)
            found = encode(ours, loaded.family.tokenize(caption)["token_ids"])
            assert difference(found, alone[0]) < 1e-5 and difference(found, beside[is_text.bool()]) < 1e-5
            normed = encoder.model.language_model.norm(found).detach()
            assert difference(normed, alone[0]) > 0.2


def test_the_cache_knows_the_version_of_the_library(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    before = loaded.family.encoder_hashes()
    monkeypatch.setattr("lorasmith.families.qwen_image21.family.version", lambda _: "4.57.1")
    after = loaded.family.encoder_hashes()
    assert after["text_encoder"] != before["text_encoder"] and after["vae"] == before["vae"]


# -- the denoiser ----------------------------------------------------------------------------------


def test_texts_of_a_batch_are_padded_to_a_few_lengths(loaded: Loaded) -> None:
    rows = loaded.inputs(*CAPTIONS)
    batch = loaded.family.collate(rows)
    assert batch[MASK].dtype == torch.bool and batch[MASK].sum(1).tolist() == [len(row[EMBEDS]) for row in rows]
    assert batch[EMBEDS].shape[1] == 192 and loaded.family.collate(rows[:2])[EMBEDS].shape[1] == 64


@pytest.mark.parametrize(("rows", "columns"), [(2, 4), (6, 2)])
def test_pictures_of_any_shape(loaded: Loaded, rows: int, columns: int) -> None:
    latents, text = drawn(1, 8, rows, columns), loaded.inputs("a red circle")
    expected = loaded.theirs(latents, (0.4,), text[0][EMBEDS][None])
    assert difference(loaded.predict(latents, (0.4,), text), expected) < 1e-5


WRONG = {  # relative differences that a good guess makes, at least
    "time x 1000": 0.1,
    "time reversed": 0.1,
    "sign": 1.9,
    "mask dropped": 0.02,
    "positions of the longest text": 0.005,
    "text with the level of the picture": 0.01,
    "text after the final norm": 0.005,
    "the system's part kept": 0.02,
    "rows and columns exchanged": 0.02,
}


@pytest.mark.parametrize("guess", WRONG)
def test_wrong_guesses_are_seen_by_these_tests(loaded: Loaded, guess: str) -> None:
    """What the comparisons above would find."""
    latents, level = drawn(1, 8, 4, 6), 0.9
    text = loaded.inputs("a red circle")[0][EMBEDS][None]
    right, padded = loaded.theirs(latents, (level,), text), nn.functional.pad(text, (0, 0, 0, 20))
    mask = torch.arange(padded.shape[1])[None] < text.shape[1]
    if guess == "time x 1000":
        found = loaded.theirs(latents, (1000 * level,), text)
    elif guess == "time reversed":
        found = loaded.theirs(latents, (1 - level,), text)
    elif guess == "sign":
        found = -right
    elif guess == "mask dropped":
        found = loaded.theirs(latents, (level,), padded)
    elif guess == "positions of the longest text":
        found = loaded.theirs(latents, (level,), padded, mask)
    elif guess == "text with the level of the picture":
        with pytest.MonkeyPatch.context() as patch:
            config = {**loaded.pipeline.transformer.config, "causal_condition": False}
            patch.setattr(loaded.pipeline.transformer, "_internal_dict", type(loaded.pipeline.config)(config))
            found = loaded.theirs(latents, (level,), text)
    elif guess == "rows and columns exchanged":
        found = loaded.theirs(latents.transpose(2, 3), (level,), text).transpose(2, 3)
    else:
        language = loaded.pipeline.text_encoder.model.language_model
        ids = loaded.family.tokenize("a red circle")["token_ids"]
        with torch.no_grad():
            states = language(ids[None], output_hidden_states=True)
        is_normed = guess == "text after the final norm"
        other = states.last_hidden_state[:, 14:] if is_normed else _whole(loaded, ids)
        found = loaded.theirs(latents, (level,), other)
    assert difference(found, right) > WRONG[guess]


def _whole(loaded: Loaded, ids: Tensor) -> Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lorasmith.families.qwen_image21.text.DROPPED", 0)
        return encode(loaded.encoders["text_encoder"], ids)[None]


# -- the process -----------------------------------------------------------------------------------


def test_samples_are_those_of_the_pipeline(loaded: Loaded) -> None:
    """Without guidance, as they are meant; the last step begins at 0.02."""
    family, noise = loaded.family, drawn(1, 8, 6, 4)
    rows = loaded.inputs("a red circle")
    theirs = loaded.pipeline(
        prompt_embeds=rows[0][EMBEDS].float()[None],
        height=96,
        width=64,
        num_inference_steps=5,
        latents=noise.flatten(2).transpose(1, 2),
        output_type="latent",
    ).images
    conditioning = family.conditioning(loaded.models, family.collate(rows))

    def predict(sample: Tensor, levels: Tensor) -> Tensor:
        with torch.no_grad():
            return family.predict(loaded.models, sample, levels, conditioning)

    found = denoise(predict, family.noise_process(), noise, noise, denoising_strength=1.0, steps=5)
    assert difference(found.flatten(2).transpose(1, 2), theirs) < 1e-4
    assert (family.traits.sampling.guidance, family.traits.sampling.steps) == (1.0, 40)


@pytest.mark.parametrize(("side", "logarithm"), [(16, 0.5), (64, 0.69355), (128, 1.3129)])
def test_the_shift_is_that_of_the_resolution(loaded: Loaded, side: int, logarithm: float) -> None:
    """256, 4096 and 16384 tokens, of pictures of 256, 1024 and 2048 pixels."""
    process = loaded.family.noise_process()
    for shift in (process.training_shift, process.sampling_shift):
        assert math.log(shift.factor((1, 64, side, side))) == pytest.approx(logarithm, abs=1e-4)
