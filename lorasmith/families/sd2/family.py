"""Stable Diffusion 2.x: OpenCLIP's text encoder, heads of 64 channels and linear projections in the UNet."""

from __future__ import annotations

from dataclasses import replace

import torch

from lorasmith.diffusion.sampling import SamplingDefaults
from lorasmith.families.base import FamilyTraits
from lorasmith.families.stable_diffusion import StableDiffusion
from lorasmith.families.weights import BaseWeights, TextSettings


class StableDiffusion2(StableDiffusion):
    """The family `sd2`. Satisfies `families.base.ModelFamily`.

    The text encoder has the 23 layers of published folders, whose last goes through the final norm: clip skip 1 is what
    the UNet was trained on.
    """

    traits = FamilyTraits(
        name="sd2",
        text_encoders=("text_encoder",),
        base_model_version="sd_v2",
        architecture="stable-diffusion-v2-512/lora",
        implementation="diffusers",
        sampling=SamplingDefaults(steps=12, guidance=3.0),
        cache_dtype=torch.float16,
        reads_english_only=True,
    )
    padding = 0  # OpenCLIP's

    def __init__(self, weights: BaseWeights, text: TextSettings) -> None:
        super().__init__(weights, text)
        if weights.noise.prediction == "v_prediction":  # the models for 768 pixels, and those made of them
            self.traits = replace(type(self).traits, architecture="stable-diffusion-v2-768-v/lora")
