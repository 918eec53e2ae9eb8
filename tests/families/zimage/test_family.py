"""Z-Image against diffusers' own pipeline, on the same miniature. Every parameter is random, so no effect is hidden."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lorasmith.diffusion.sampling import denoise
from lorasmith.families import load_family
from lorasmith.families.loading import load_component
from lorasmith.families.qwen_text import hidden_states, qwen3_builder
from lorasmith.families.qwen_transformer import EMBEDS, MASK
from lorasmith.families.recognize import recognize
from lorasmith.families.zimage.denoiser import patched, unpatched
from lorasmith.families.zimage.family import ZImage
from lorasmith.families.zimage.text import STATE, TEMPLATE, encode
from tests.families.flow import CAPTIONS, CPU, FlowTests, Reference, difference, drawn
from tests.families.zimage.miniature import make_model


@dataclass(frozen=True)
class Loaded(Reference):
    denoiser = "ZImageTransformer2DModel"

    @torch.no_grad()
    def text(self, *captions: str) -> list[Tensor]:
        """What the pipeline makes of captions."""
        embeds, _ = self.pipeline.encode_prompt(list(captions), do_classifier_free_guidance=False)
        return list(embeds)

    def theirs(self, latents: Tensor, levels: Sequence[float], texts: list[Tensor], **models: nn.Module) -> Tensor:
        """The prediction as the pipeline makes it in its loop."""
        denoiser = models.get("denoiser", self.pipeline.transformer)
        timestep = 1000 * torch.tensor(levels)
        with torch.no_grad():
            (found,) = denoiser(
                list(latents.to(denoiser.dtype).unsqueeze(2).unbind(0)),
                (1000 - timestep) / 1000,
                [text.to(denoiser.dtype) for text in texts],
                return_dict=False,
            )
        return -torch.stack([one.float() for one in found]).squeeze(2)

    def predicted_there(
        self, latents: Tensor, levels: Sequence[float], captions: Sequence[str], **models: nn.Module
    ) -> Tensor:
        """Of our texts: the pipeline's differ by the rounding of bfloat16."""
        return self.theirs(latents, levels, [row[EMBEDS] for row in self.inputs(*captions)], **models)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    from diffusers import ZImagePipeline

    folder = make_model(tmp_path_factory.mktemp("zimage") / "model")
    types = {"text_encoder": torch.bfloat16, "default": torch.float32}
    pipeline = ZImagePipeline.from_pretrained(folder, dtype=types, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    family = load_family(recognize(folder))
    assert isinstance(family, ZImage)
    models = family.load_models(trained=[], dtype=torch.float32, to=CPU)
    return Loaded(folder, family, family.load_encoders(CPU), models, pipeline)


class TestAsEveryFamily(FlowTests):
    """Types, predictions and targets beside the pipeline's."""


# -- loading ---------------------------------------------------------------------------------------


def test_the_text_encoder_is_that_of_the_pipeline_as_far_as_it_is_read(loaded: Loaded) -> None:
    ours, theirs = loaded.encoders["text_encoder"], loaded.pipeline.text_encoder
    expected = theirs.state_dict()
    behind = {name for name in expected if name.startswith(("layers.3.", "norm."))}
    assert len(behind) > 1 and ours.state_dict().keys() == expected.keys() - behind
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.state_dict().items())
    assert {tensor.dtype for tensor in ours.parameters()} == {torch.bfloat16}
    assert ours.get_buffer("rotary_emb.inv_freq").dtype == torch.float32


# -- pictures --------------------------------------------------------------------------------------


def test_latents_are_shifted_and_scaled_as_the_pipeline_takes_them_back(loaded: Loaded) -> None:
    pixels = torch.rand((3, 48, 64), generator=torch.Generator().manual_seed(1)) * 2 - 1
    vae = loaded.pipeline.vae
    latents = loaded.family.encode_image(loaded.encoders, pixels)["latents"]
    with torch.no_grad():
        mode = vae.encode(pixels[None]).latent_dist.mode()[0]
        decoded = vae.decode(latents[None] / vae.config.scaling_factor + vae.config.shift_factor).sample
    assert torch.allclose(latents, (mode - 0.1159) * 0.3611, atol=1e-5)
    assert torch.allclose(loaded.family.decode_latents(loaded.encoders, latents[None]), decoded, atol=1e-5)


# -- text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("caption", CAPTIONS)
def test_captions_are_encoded_as_by_the_pipeline_without_its_padding(loaded: Loaded, caption: str) -> None:
    (expected,) = loaded.text(caption)
    found = loaded.inputs(caption)[0][EMBEDS]
    assert found.dtype == torch.bfloat16 and found.shape == expected.shape
    assert difference(found, expected) < 1e-2  # of bfloat16


def test_captions_are_those_of_the_whole_text_encoder_to_the_bit(loaded: Loaded) -> None:
    family = loaded.family
    whole = load_component(
        family.weights, "text_encoder", qwen3_builder, dtype=torch.bfloat16, to=CPU, allows_extra=False
    )
    for caption in CAPTIONS:
        expected = hidden_states(whole, family.tokenize(caption)["token_ids"])[STATE]
        assert torch.equal(loaded.inputs(caption)[0][EMBEDS], expected)


def test_captions_in_float32_are_exactly_those_of_the_pipeline(loaded: Loaded) -> None:
    """The state before the last layer and before the final norm; the end of the message, too."""
    from transformers import Qwen3Model

    encoder = Qwen3Model.from_pretrained(loaded.folder / "text_encoder", dtype=torch.float32).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vars(loaded.pipeline), "text_encoder", encoder)
        for caption in CAPTIONS:
            ids = loaded.family.tokenize(caption)["token_ids"]
            assert difference(encode(encoder, ids, 3), loaded.text(caption)[0]) < 1e-5


def test_a_long_caption_keeps_the_end_of_the_message(loaded: Loaded) -> None:
    """The pipeline cuts that off: its text is as long, and differs from there on."""
    (expected,), found = loaded.text("x " * 900), loaded.inputs("x " * 900)[0][EMBEDS]
    seen = TEMPLATE.starts + TEMPLATE.most
    assert len(expected) == len(found) == 512 == seen + TEMPLATE.ends
    assert difference(found[:seen], expected[:seen]) < 1e-2 < difference(found[seen:], expected[seen:])


# -- the denoiser ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(6, 8), (8, 16)], ids=["padded", "whole"])
def test_padding_of_texts_and_pictures_changes_nothing(loaded: Loaded, size: tuple[int, int]) -> None:
    latents, levels, rows = drawn(3, 4, *size), (0.9, 0.5, 0.1), loaded.inputs(*CAPTIONS)
    batch = loaded.family.collate(rows)
    assert batch[MASK].dtype == torch.bool and batch[MASK].sum(1).tolist() == [len(row[EMBEDS]) for row in rows]
    assert batch[EMBEDS].shape[1] == 160 and loaded.family.collate(rows[:2])[EMBEDS].shape[1] == 32
    found = loaded.predict(latents, levels, rows)
    assert difference(found, loaded.predicted_there(latents, levels, CAPTIONS)) < 1e-5
    assert difference(found, loaded.theirs(latents, levels, loaded.text(*CAPTIONS))) < 1e-2  # of texts in bfloat16


WRONG = {  # relative differences that a good guess makes, at least
    "sign": 1.0,
    "time x 1000": 0.05,
    "time reversed": 0.05,
    "captions without learned tokens": 0.005,
    "pictures behind the longest caption": 0.01,
    "patches by channel, row, column": 0.1,
    "after the final norm": 0.01,
    "with an empty thought": 0.02,
}


@pytest.mark.parametrize("guess", WRONG)
def test_wrong_guesses_are_seen_by_these_tests(loaded: Loaded, guess: str) -> None:
    """What the comparisons above would find."""
    latents, levels, captions = drawn(1, 4, 8, 16), (0.8,), ["a red circle"]
    text = loaded.text(*captions)
    right = loaded.theirs(latents, levels, text)
    if guess == "sign":
        found = -right
    elif guess == "time x 1000":
        found = loaded.theirs(latents, (1 - 1000 * (1 - levels[0]),), text)
    elif guess == "time reversed":
        found = loaded.theirs(latents, (1 - levels[0],), text)
    elif guess == "captions without learned tokens":
        found = loaded.theirs(latents, levels, [torch.cat([text[0], text[0][-1:].expand(32 - len(text[0]), -1)])])
    elif guess == "pictures behind the longest caption":
        found = _with_positions_moved(loaded, latents, levels, text)
    elif guess == "patches by channel, row, column":
        found = _with_channels_first(loaded, latents, levels, text)
    elif guess == "after the final norm":
        found = loaded.theirs(latents, levels, [loaded.pipeline.text_encoder.norm(text[0]).detach()])
    else:
        found = loaded.theirs(latents, levels, loaded.text(captions[0] + "<|im_end|>\n<|im_start|>assistant\n<think>"))
    assert difference(found, right) > WRONG[guess]


def _with_positions_moved(loaded: Loaded, latents: Tensor, levels: Sequence[float], text: list[Tensor]) -> Tensor:
    """As if the caption had been padded for a longer one beside it."""
    transformer = loaded.pipeline.transformer
    plain = type(transformer)._pad_with_ids

    def moved(feat: Tensor, size: tuple[int, ...], start: tuple[int, ...], *rest: Any) -> Any:
        return plain(transformer, feat, size, (start[0] + 96, *start[1:]) if start[0] > 1 else start, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer, "_pad_with_ids", moved)
        return loaded.theirs(latents, levels, text)


def _with_channels_first(loaded: Loaded, latents: Tensor, levels: Sequence[float], text: list[Tensor]) -> Tensor:
    turned = patched(latents).unflatten(2, (4, 4)).transpose(2, 3).flatten(2)
    found = patched(loaded.theirs(unpatched(turned, 4, 8), levels, text))
    return unpatched(found.unflatten(2, (4, 4)).transpose(2, 3).flatten(2), 4, 8)


# -- the process -----------------------------------------------------------------------------------


def test_samples_are_those_of_the_pipeline(loaded: Loaded) -> None:
    """Its guidance counts from 0: what people call 4 is its 3."""
    family, noise = loaded.family, drawn(1, 4, 8, 6)
    rows = loaded.inputs("", "a red circle")
    theirs = loaded.pipeline(
        prompt_embeds=[rows[1][EMBEDS].float()],
        negative_prompt_embeds=[rows[0][EMBEDS].float()],
        height=64,
        width=48,
        num_inference_steps=5,
        guidance_scale=3.0,
        latents=noise,
        output_type="latent",
    ).images
    conditioning = family.conditioning(loaded.models, family.collate(rows))

    def predict(sample: Tensor, levels: Tensor) -> Tensor:
        with torch.no_grad():
            both = torch.cat([sample, sample]), torch.cat([levels, levels])
            without, with_caption = family.predict(loaded.models, *both, conditioning).chunk(2)
        return without + 4 * (with_caption - without)

    process = family.noise_process().seen_in(torch.bfloat16)  # the level stays exact
    found = denoise(predict, process, noise, noise, denoising_strength=1.0, steps=5)
    assert difference(found, theirs) < 1e-4
