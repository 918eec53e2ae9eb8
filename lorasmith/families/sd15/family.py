"""Stable Diffusion 1.x: CLIP's text encoder, 8 heads in every attention of the UNet."""

from __future__ import annotations

from lorasmith.diffusion.sampling import SamplingDefaults
from lorasmith.families.base import FamilyTraits
from lorasmith.families.stable_diffusion import StableDiffusion


class StableDiffusion15(StableDiffusion):
    """The family `sd15`. Satisfies `families.base.ModelFamily`."""

    traits = FamilyTraits(
        name="sd15",
        text_encoders=("text_encoder",),
        base_model_version="sd_v1",
        architecture="stable-diffusion-v1/lora",
        implementation="diffusers",
        sampling=SamplingDefaults(steps=12, guidance=3.0),
        reads_english_only=True,
    )
