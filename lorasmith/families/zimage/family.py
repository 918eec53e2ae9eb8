"""Z-Image: a transformer over picture and text, the text encoder Qwen3, the VAE of FLUX.1, flow matching.

The denoiser takes 1 - s and predicts the picture minus the noise: both are turned here. The libraries' model classes
are imported when a component is loaded, not before. Nothing here goes online. Knows no adapter, no optimizer and no
run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.data.types import Inputs
from lorasmith.diffusion.densities import LogitNormal
from lorasmith.diffusion.flow import FixedShift, FlowMatching
from lorasmith.diffusion.sampling import SamplingDefaults
from lorasmith.families.base import FamilyTraits, Models
from lorasmith.families.forward_work import ForwardWork, Shapes
from lorasmith.families.latent_diffusion import decode_with_vae, encode_with_vae, vae_builder
from lorasmith.families.loading import Build, on_meta_device
from lorasmith.families.qwen_text import qwen3_builder
from lorasmith.families.qwen_transformer import EMBEDS, MASK, TEXT, QwenTransformer
from lorasmith.families.zimage.attention import PositionTables, RotatedAttention
from lorasmith.families.zimage.denoiser import forward
from lorasmith.families.zimage.layout import LAYERS_BEHIND, PATCH, TOKENS
from lorasmith.families.zimage.text import STATE, TEMPLATE, encode
from lorasmith.families.zimage.work import denoiser_work

TRAINING_SHIFT = 2.0
_TARGETS = re.compile(
    r"(layers|noise_refiner|context_refiner)\.\d+\.(attention\.to_(q|k|v|out\.0)|feed_forward\.w[123]|adaLN_modulation\.0)"
    r"|all_x_embedder\.2-1|t_embedder\.mlp\.[02]|cap_embedder\.1|all_final_layer\.2-1\.(linear|adaLN_modulation\.1)"
)


def denoiser_builder() -> Build:
    """Imports diffusers; the function that builds a ZImageTransformer2DModel with rotations in real numbers."""
    from diffusers import ZImageTransformer2DModel

    build = on_meta_device(ZImageTransformer2DModel)

    def built(config: Any) -> nn.Module:
        denoiser: Any = build(config)
        denoiser.rope_embedder = PositionTables(denoiser.rope_embedder)
        for block in (*denoiser.noise_refiner, *denoiser.context_refiner, *denoiser.layers):
            block.attention.set_processor(RotatedAttention())
        return denoiser

    return built


_BUILDERS: Mapping[str, Callable[[], Build]] = {
    "transformer": denoiser_builder,
    "vae": vae_builder,
    TEXT: qwen3_builder,
}


class ZImage(QwenTransformer):
    """The family `zimage`. Satisfies `families.base.ModelFamily`."""

    traits = FamilyTraits(
        name="zimage",
        text_encoders=(TEXT,),
        base_model_version="zimage",
        architecture="z-image/lora",
        implementation="https://github.com/Tongyi-MAI/Z-Image",
        sampling=SamplingDefaults(steps=28, guidance=4.0),
        cache_dtype=torch.float32,  # of the latents; the text stays in bfloat16
        trains_text=False,  # no program reads adapters of the text encoder
    )
    template = TEMPLATE
    text_step = TOKENS
    builders = _BUILDERS
    targets = _TARGETS
    feed_forwards = ("feed_forward",)
    blocks = ("noise_refiner", "context_refiner", "layers")

    def text_description(self) -> list[Any]:
        return [STATE, TEMPLATE.before, TEMPLATE.after]

    def text_layers(self) -> int:
        return int(self.language_config()["num_hidden_layers"]) - LAYERS_BEHIND

    # -- inputs ------------------------------------------------------------------------------------

    def language_config(self) -> Mapping[str, Any]:
        config: Mapping[str, Any] = self.weights.configs[TEXT]
        return config

    def encoded(self, encoder: Any, ids: Tensor) -> Tensor:
        return encode(encoder, ids, self.text_layers())

    def encode_image(self, encoders: Models, pixels: Tensor, *, tile: int = 0) -> dict[str, Tensor]:
        return {"latents": encode_with_vae(encoders["vae"], pixels, tile)}

    # -- the step ----------------------------------------------------------------------------------

    def forward_work(self, shapes: Mapping[str, Shapes], inputs: Inputs) -> ForwardWork:
        rows, columns = (side // PATCH for side in inputs["latents"].shape[1:])
        return denoiser_work(shapes["denoiser"], picture=rows * columns, text=len(inputs[EMBEDS]))

    def noise_process(self) -> FlowMatching:
        """Training has more noise than a plain logit-normal distribution and less than sampling, whose shift is that of
        the scheduler."""
        sampling = FixedShift(self.weights.configs["scheduler"].get("shift", 1.0))
        training = FixedShift(TRAINING_SHIFT)
        return FlowMatching(LogitNormal(), training_shift=training, sampling_shift=sampling, has_exact_levels=True)

    def predict(
        self,
        models: Models,
        noisy_latents: Tensor,
        timesteps: Tensor,
        conditioning: Mapping[str, Tensor],
    ) -> Tensor:
        denoiser: Any = models["denoiser"]
        precision = denoiser.x_pad_token.dtype  # never a target
        latents, embeds = noisy_latents.to(precision), conditioning[EMBEDS].to(precision)
        return -forward(denoiser, latents, 1 - timesteps, embeds, conditioning[MASK])

    def decode_latents(self, encoders: Models, latents: Tensor, *, free_memory: int | None = None) -> Tensor:
        return decode_with_vae(encoders["vae"], latents, free_memory)
