"""Qwen-Image 2.1 against diffusers' own pipeline, on the same miniature. Every parameter is random, so no effect is
hidden."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from lorasmith.families.qwen_image21.family import QwenImage21
from lorasmith.families.qwen_image21.text import encode
from lorasmith.families.qwen_transformer import EMBEDS
from tests.contracts.flow_contract import FlowContract
from tests.families.flow import CAPTIONS, CPU, Reference, difference, drawn, load_reference
from tests.families.qwen_image21.miniature import load_pipeline, make_model


@dataclass(frozen=True)
class Loaded(Reference):
    kind = QwenImage21
    denoiser = "QwenImage21Transformer2DModel"
    latents = (8, 4, 6)
    captions = CAPTIONS
    text_rounding = 5e-3
    lengths = (192, 64)
    guidance = 1.0
    sampled = (8, 6, 4)
    # 256, 4096 and 16384 tokens, of pictures of 256, 1024 and 2048 pixels
    shifts: ClassVar = {side: 2 * (math.exp(0.5 + 0.4 * (side**2 - 256) / 7936),) for side in (16, 64, 128)}

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

    def text_encoders_there(self) -> dict[str, tuple[nn.Module, tuple[str, ...]]]:
        return {"text_encoder": (self.pipeline.text_encoder.model.language_model, ("norm.",))}

    def texts_there(self, *captions: str) -> list[dict[str, Tensor]]:
        embeds, mask = self.text(*captions)
        if mask is None:
            return [{EMBEDS: text} for text in embeds]
        return [{EMBEDS: text[is_text.bool()]} for text, is_text in zip(embeds, mask, strict=True)]

    def encoders_in_float32(self) -> dict[str, Any]:
        from transformers import Qwen3VLForConditionalGeneration

        folder = self.folder / "text_encoder"
        return {"text_encoder": Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()}

    def encoded(self, encoders: Mapping[str, Any], caption: str) -> Tensor:
        """Before the final norm, without the system's part."""
        language = encoders["text_encoder"].model.language_model
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(language._modules, "norm", nn.Identity())
            return encode(language, self.family.tokenize(caption)["token_ids"])

    def sampled_there(self, noise: Tensor, caption: str) -> Tensor:
        """Without guidance, as they are meant; the last step begins at 0.02."""
        text = self.inputs(caption)[0][EMBEDS].float()[None]
        sample = self.called_to_sample(noise.flatten(2).transpose(1, 2), prompt_embeds=text, height=96, width=64)
        return sample.transpose(1, 2).unflatten(2, noise.shape[2:])


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = make_model(tmp_path_factory.mktemp("qwen_image21") / "model")
    return load_reference(Loaded, folder, load_pipeline(folder))


class TestContract(FlowContract):
    """As every family."""


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


# -- text ------------------------------------------------------------------------------------------


def test_the_cache_knows_the_version_of_the_library(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    before = loaded.family.encoder_hashes()
    monkeypatch.setattr("lorasmith.families.qwen_image21.family.version", lambda _: "4.57.1")
    after = loaded.family.encoder_hashes()
    assert after["text_encoder"] != before["text_encoder"] and after["vae"] == before["vae"]


# -- the denoiser ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(2, 4), (6, 2)])
def test_pictures_of_any_shape(loaded: Loaded, rows: int, columns: int) -> None:
    latents, text = drawn(1, 8, rows, columns), loaded.inputs("a red circle")
    expected = loaded.theirs(latents, (0.4,), text[0][EMBEDS][None])
    assert difference(loaded.predict(latents, (0.4,), text), expected) < 1e-5


WRONG = {  # relative differences that a good guess makes, at least
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
    if guess == "mask dropped":
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


def test_samples_are_without_guidance(loaded: Loaded) -> None:
    assert (loaded.family.traits.sampling.guidance, loaded.family.traits.sampling.steps) == (1.0, 40)
