"""Qwen-Image 2.1: a transformer over text and picture, the text encoder Qwen3-VL, a VAE of four channels.

The libraries' model classes are imported when a component is loaded, not before. Nothing here goes online. Knows no
adapter, no optimizer and no run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from lorasmith.data.types import Inputs
from lorasmith.diffusion.densities import LogitNormal
from lorasmith.diffusion.flow import FlowMatching, ShiftByTokens
from lorasmith.diffusion.sampling import SamplingDefaults
from lorasmith.families.base import FamilyTraits, Models
from lorasmith.families.forward_work import ForwardWork, Shapes
from lorasmith.families.loading import Build
from lorasmith.families.qwen_image21.denoiser import denoiser_builder, velocity
from lorasmith.families.qwen_image21.text import DROPPED, NO_CAPTION, TEMPLATE, encode
from lorasmith.families.qwen_image21.vae import decode, encode_opaque, vae_builder
from lorasmith.families.qwen_image21.work import denoiser_work
from lorasmith.families.qwen_text import qwen3_vl_builder
from lorasmith.families.qwen_transformer import EMBEDS, MASK, TEXT, QwenTransformer

_TARGETS = re.compile(
    r"transformer_blocks\.\d+\.(attn\.to_(q|k|v|out\.0)|img_mlp\.(proj|gate_layer|out))"
    r"|img_in|txt_in\.(in|out)_layer|time_text_embed\.timestep_embedder\.linear_[12]|modulation\.1|norm_out\.linear"
    r"|proj_out"
)
_BUILDERS: Mapping[str, Callable[[], Build]] = {
    "transformer": denoiser_builder,
    "vae": vae_builder,
    TEXT: qwen3_vl_builder,
}


class QwenImage21(QwenTransformer):
    """The family `qwen_image21`. Satisfies `families.base.ModelFamily`."""

    traits = FamilyTraits(
        name="qwen_image21",
        text_encoders=(TEXT,),
        base_model_version="qwen_image_21",
        architecture="qwen-image-2.1/lora",
        implementation="https://github.com/QwenLM/Qwen-Image",
        sampling=SamplingDefaults(steps=40, guidance=1.0),
        cache_dtype=torch.float32,  # of the latents; the text stays in bfloat16
        trains_text=False,  # no program reads adapters of the text encoder
    )
    template = TEMPLATE
    builders = _BUILDERS
    targets = _TARGETS
    blocks = ("transformer_blocks",)
    feed_forwards = ("img_mlp",)

    def text_description(self) -> list[Any]:
        """With the version of the library: what it calls the last hidden state has changed between versions."""
        return [TEMPLATE.before, TEMPLATE.after, DROPPED, NO_CAPTION, "before the norm", version("transformers")]

    # -- inputs ------------------------------------------------------------------------------------

    def language_config(self) -> Mapping[str, Any]:
        config: Mapping[str, Any] = self.weights.configs[TEXT]["text_config"]
        return config

    def encoded(self, encoder: Any, ids: Tensor) -> Tensor:
        return encode(encoder, ids)

    def tokenize(self, caption: str) -> dict[str, Tensor]:
        return super().tokenize(caption or NO_CAPTION)

    def encode_image(self, encoders: Models, pixels: Tensor, *, tile: int = 0) -> dict[str, Tensor]:
        return {"latents": encode_opaque(encoders["vae"], pixels, tile)}

    # -- the step ----------------------------------------------------------------------------------

    def forward_work(self, shapes: Mapping[str, Shapes], inputs: Inputs) -> ForwardWork:
        _, rows, columns = inputs["latents"].shape
        return denoiser_work(shapes["denoiser"], picture=rows * columns, text=len(inputs[EMBEDS]))

    def noise_process(self) -> FlowMatching:
        """As pictures are sampled: the larger they are, the more steps lie in strong noise."""
        settings = self.weights.configs["scheduler"]
        shift = ShiftByTokens(
            fewest=settings.get("base_image_seq_len", 256),
            most=settings.get("max_image_seq_len", 8192),
            least=settings.get("base_shift", 0.5),
            greatest=settings.get("max_shift", 0.9),
            patch=1,
        )
        return FlowMatching(
            LogitNormal(), training_shift=shift, sampling_shift=shift, last_level=settings.get("shift_terminal")
        )

    def predict(
        self,
        models: Models,
        noisy_latents: Tensor,
        timesteps: Tensor,
        conditioning: Mapping[str, Tensor],
    ) -> Tensor:
        denoiser: Any = models["denoiser"]
        precision = denoiser.txt_in.text_norm.weight.dtype  # never a target
        height, width = noisy_latents.shape[2:]
        prediction = velocity(
            denoiser,
            noisy_latents.flatten(2).transpose(1, 2).to(precision),
            timesteps.to(precision),
            conditioning[EMBEDS].to(precision),
            conditioning[MASK],
            (height, width),
        )
        return prediction.transpose(1, 2).unflatten(2, (height, width))

    def decode_latents(self, encoders: Models, latents: Tensor, *, free_memory: int | None = None) -> Tensor:
        return decode(encoders["vae"], latents, free_memory)
