"""Stable Diffusion 2.x: the parts of 1.x, with OpenCLIP's text encoder. What differs from 1.x is here."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor

from lorasmith.families import clip
from lorasmith.families.sd15.family import StableDiffusion15
from lorasmith.families.weights import BaseWeights, TextSettings

_PADDING = 0  # OpenCLIP's, where CLIP pads with the end of the text


class StableDiffusion2(StableDiffusion15):
    """The family `sd2`. Satisfies `families.base.ModelFamily`.

    The text encoder has the 23 layers of published folders, whose last goes through the final norm: clip skip 1 is what
    the UNet was trained on.
    """

    traits = replace(
        StableDiffusion15.traits,
        name="sd2",
        base_model_version="sd_v2",
        architecture="stable-diffusion-v2-512/lora",
    )

    def __init__(self, weights: BaseWeights, text: TextSettings) -> None:
        super().__init__(weights, text)
        if weights.noise.prediction == "v_prediction":  # the models for 768 pixels, and those made of them
            self.traits = replace(type(self).traits, architecture="stable-diffusion-v2-768-v/lora")

    @cached_property
    def _tokenizer(self) -> Any:
        return clip.model_tokenizer(self.weights, "text_encoder", is_padding_plain=True)

    def tokenize(self, caption: str) -> dict[str, Tensor]:
        return {"input_ids": clip.input_ids(self._tokenizer, caption, tokens=self.caption_tokens, padding=_PADDING)}
