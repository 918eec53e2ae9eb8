"""Z-Image against diffusers' own pipeline, on the same miniature. Every parameter is random, so no effect is hidden."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from lorasmith.families.loading import load_component
from lorasmith.families.qwen_text import hidden_states, qwen3_builder
from lorasmith.families.qwen_transformer import EMBEDS
from lorasmith.families.zimage.denoiser import patched, unpatched
from lorasmith.families.zimage.family import ZImage
from lorasmith.families.zimage.text import STATE, TEMPLATE, encode
from tests.contracts.flow_contract import FlowContract, FluxPictures
from tests.families.flow import CAPTIONS, CPU, Reference, difference, drawn, load_pipeline, load_reference
from tests.families.zimage.miniature import make_model


@dataclass(frozen=True)
class Loaded(Reference):
    kind = ZImage
    denoiser = "ZImageTransformer2DModel"
    captions = CAPTIONS  # the pipeline cuts off the end of a longer message
    text_rounding = 1e-2
    lengths = (160, 32)
    shifts: ClassVar = {32: (2.0, 6.0), 128: (2.0, 6.0)}

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

    def text_encoders_there(self) -> dict[str, tuple[nn.Module, tuple[str, ...]]]:
        return {"text_encoder": (self.pipeline.text_encoder, ("layers.3.", "norm."))}

    def texts_there(self, *captions: str) -> list[dict[str, Tensor]]:
        return [{EMBEDS: text} for text in self.text(*captions)]

    def encoders_in_float32(self) -> dict[str, Any]:
        from transformers import Qwen3Model

        folder = self.folder / "text_encoder"
        return {"text_encoder": Qwen3Model.from_pretrained(folder, dtype=torch.float32).eval()}

    def encoded(self, encoders: Mapping[str, Any], caption: str) -> Tensor:
        """The state before the last layer and before the final norm; the end of the message, too."""
        return encode(encoders["text_encoder"], self.family.tokenize(caption)["token_ids"], 3)

    def sampled_there(self, noise: Tensor, caption: str) -> Tensor:
        """Its guidance counts from 0: what people call 4 is its 3."""
        without, text = ([row[EMBEDS].float()] for row in self.inputs("", caption))
        return self.called_to_sample(noise, prompt_embeds=text, negative_prompt_embeds=without, guidance_scale=3.0)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = make_model(tmp_path_factory.mktemp("zimage") / "model")
    return load_reference(Loaded, folder, load_pipeline(folder, "ZImagePipeline"))


class TestContract(FlowContract, FluxPictures):
    """As every family."""


# -- text ------------------------------------------------------------------------------------------


def test_captions_are_those_of_the_whole_text_encoder_to_the_bit(loaded: Loaded) -> None:
    family = loaded.family
    whole = load_component(
        family.weights, "text_encoder", qwen3_builder, dtype=torch.bfloat16, to=CPU, allows_extra=False
    )
    for caption in CAPTIONS:
        expected = hidden_states(whole, family.tokenize(caption)["token_ids"])[STATE]
        assert torch.equal(loaded.inputs(caption)[0][EMBEDS], expected)


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
    found = loaded.predict(latents, levels, rows)
    assert difference(found, loaded.predicted_there(latents, levels, CAPTIONS)) < 1e-5
    assert difference(found, loaded.theirs(latents, levels, loaded.text(*CAPTIONS))) < 1e-2  # of texts in bfloat16


WRONG = {  # relative differences that a good guess makes, at least
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
    if guess == "captions without learned tokens":
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


def test_levels_stay_exact_in_bfloat16(loaded: Loaded) -> None:
    """The denoiser takes them in float32."""
    process = loaded.family.noise_process()
    assert process.seen_in(torch.bfloat16).dtype == torch.float32
