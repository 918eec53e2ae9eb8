"""Krea 2: a transformer over text and picture, the text encoder Qwen3-VL, the VAE of Qwen-Image, flow matching.

The libraries' model classes are imported when a component is loaded, not before. Nothing here goes online. Knows no
adapter, no optimizer and no run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lorasmith.data.types import Inputs
from lorasmith.diffusion.densities import LogitNormal
from lorasmith.diffusion.flow import FixedShift, FlowMatching, ShiftByTokens
from lorasmith.diffusion.sampling import SamplingDefaults
from lorasmith.families.base import FamilyTraits, Models
from lorasmith.families.flow_transformer import grid_positions, packed, unpacked
from lorasmith.families.forward_work import ForwardWork, Shapes
from lorasmith.families.krea2.layout import FLOAT32, PATCH, taps, vae_factor
from lorasmith.families.krea2.text import TEMPLATE, encode
from lorasmith.families.krea2.work import Sizes, denoiser_work
from lorasmith.families.loading import Build, on_meta_device
from lorasmith.families.qwen_text import qwen3_vl_builder
from lorasmith.families.qwen_transformer import EMBEDS, MASK, TEXT, QwenTransformer
from lorasmith.families.qwen_vae import decode_with_vae, encode_with_vae, vae_builder

_SHIFT_OF_TURBO = 1.15  # its logarithm, whatever the scheduler's config has
_TARGETS = re.compile(
    r"(transformer_blocks|text_fusion\.(layerwise|refiner)_blocks)\.\d+\.(attn\.to_(q|k|v|gate|out\.0)|ff\.(gate|up|down))"
    r"|img_in|time_embed\.linear_[12]|time_mod_proj|text_fusion\.projector|txt_in\.linear_[12]|final_layer\.linear"
)


def denoiser_builder() -> Build:
    """Imports diffusers; the function that builds a Krea2Transformer2DModel."""
    from diffusers import Krea2Transformer2DModel

    return on_meta_device(Krea2Transformer2DModel)


_BUILDERS: Mapping[str, Callable[[], Build]] = {
    "transformer": denoiser_builder,
    "vae": vae_builder,
    TEXT: qwen3_vl_builder,
}


class Krea2(QwenTransformer):
    """The family `krea2`. Satisfies `families.base.ModelFamily`."""

    traits = FamilyTraits(
        name="krea2",
        text_encoders=(TEXT,),
        base_model_version="krea2",
        architecture="krea-2/lora",
        implementation="https://github.com/krea-ai/krea-2",
        sampling=SamplingDefaults(steps=28, guidance=4.0),
        cache_dtype=torch.float32,  # of the latents; the text stays in bfloat16
        trains_text=False,  # no program reads adapters of the text encoder
    )
    template = TEMPLATE
    builders = _BUILDERS
    targets = _TARGETS
    blocks = ("transformer_blocks",)
    float32_parts = FLOAT32

    def text_description(self) -> list[Any]:
        return [taps(self.weights.configs), TEMPLATE.before, TEMPLATE.after]

    def text_layers(self) -> int:
        return max(taps(self.weights.configs))

    # -- inputs ------------------------------------------------------------------------------------

    def language_config(self) -> Mapping[str, Any]:
        config: Mapping[str, Any] = self.weights.configs[TEXT]["text_config"]
        return config

    def encoded(self, encoder: Any, ids: Tensor) -> Tensor:
        return encode(encoder, ids, taps(self.weights.configs))

    def encode_image(self, encoders: Models, pixels: Tensor, *, tile: int = 0) -> dict[str, Tensor]:
        return {"latents": encode_with_vae(encoders["vae"], pixels, tile)}

    # -- the step ----------------------------------------------------------------------------------

    def forward_work(self, shapes: Mapping[str, Shapes], inputs: Inputs) -> ForwardWork:
        rows, columns = (side // PATCH for side in inputs["latents"].shape[1:])
        text, taps, width = inputs[EMBEDS].shape
        return denoiser_work(shapes["denoiser"], Sizes(rows * columns, text, taps, width))

    def noise_process(self) -> FlowMatching:
        """As pictures are sampled: the larger they are, the more steps lie in strong noise. Turbo is sampled with the
        same shift whatever their size."""
        settings = self.weights.configs["scheduler"]
        least, greatest = settings.get("base_shift", 0.5), settings.get("max_shift", 1.15)
        shift = ShiftByTokens(
            fewest=settings.get("base_image_seq_len", 256),
            most=settings.get("max_image_seq_len", 6400),
            least=least,
            greatest=greatest,
            patch=PATCH,
        )
        sampling_shift = FixedShift(math.exp(_SHIFT_OF_TURBO)) if self.weights.distilled else shift
        return FlowMatching(LogitNormal(), training_shift=shift, sampling_shift=sampling_shift)

    def predict(
        self,
        models: Models,
        noisy_latents: Tensor,
        timesteps: Tensor,
        conditioning: Mapping[str, Tensor],
    ) -> Tensor:
        denoiser: Any = models["denoiser"]
        precision = denoiser.transformer_blocks[0].scale_shift_table.dtype  # never a target
        embeds = conditioning[EMBEDS]
        rows, columns = (side // PATCH for side in noisy_latents.shape[2:])
        (prediction,) = denoiser(
            hidden_states=packed(noisy_latents, PATCH).to(precision),
            encoder_hidden_states=embeds.to(precision),
            timestep=timesteps.to(precision),
            position_ids=positions(embeds.shape[1], rows, columns, noisy_latents.device),
            encoder_attention_mask=conditioning[MASK],
            return_dict=False,
        )
        return unpacked(prediction, rows, columns, PATCH)

    def decode_latents(self, encoders: Models, latents: Tensor, *, free_memory: int | None = None) -> Tensor:
        return decode_with_vae(encoders["vae"], latents, vae_factor(self.weights.configs), free_memory)


def positions(text_tokens: int, rows: int, columns: int, device: torch.device) -> Tensor:
    """(text and picture, 3): all text at the origin, a picture's tokens at (0, row, column)."""
    return torch.cat([torch.zeros(text_tokens, 3, device=device), grid_positions(rows, columns, device)])
