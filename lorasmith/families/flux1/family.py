"""FLUX.1 dev: a transformer over text and picture, the text encoders CLIP and T5, a VAE, flow matching.

The model was distilled to take the guidance as an input. It is trained with a guidance of 1, and sampled with more.

The libraries' model classes are imported when a component is loaded, not before. Nothing here goes online. Knows no
adapter, no optimizer and no run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.data.types import Inputs
from lorasmith.diffusion.densities import LogitNormal
from lorasmith.diffusion.flow import FlowMatching, ShiftByTokens
from lorasmith.diffusion.sampling import SamplingDefaults
from lorasmith.families import clip
from lorasmith.families import latent_diffusion as ldm
from lorasmith.families.base import FamilyTraits, Models
from lorasmith.families.flow_transformer import FlowTransformer, grid_positions, packed, unpacked
from lorasmith.families.flux1.layout import CLIP, LENGTH, PATCH, T5
from lorasmith.families.flux1.text import MOST, encode_clip, encode_t5, first_unseen_tag, t5_builder, t5_ids
from lorasmith.families.flux1.work import denoiser_work
from lorasmith.families.forward_work import ForwardWork, Shapes
from lorasmith.families.loading import Build, Destination, load_component, on_meta_device
from lorasmith.families.stored_tensors import DtypeOf
from lorasmith.families.t5_text import t5_tokenizer
from lorasmith.families.t5_vocabulary import t5_tokenizer_files
from lorasmith.families.tokenizer_files import tokenizer_folder
from lorasmith.families.weights import BaseWeights, TextSettings

EMBEDS, POOLED, GUIDANCE = "prompt_embeds", "pooled_prompt_embeds", "guidance"
TRAINING_GUIDANCE = 1.0
_TARGETS = re.compile(
    r"transformer_blocks\.\d+\.(attn\.(to_[qkv]|add_[qkv]_proj|to_out\.0|to_add_out)|ff(_context)?\.net\.(0\.proj|2)"
    r"|norm1(_context)?\.linear)"
    r"|single_transformer_blocks\.\d+\.(attn\.to_[qkv]|proj_mlp|proj_out|norm\.linear)"
    r"|x_embedder|context_embedder|time_text_embed\.(timestep|guidance|text)_embedder\.linear_[12]|proj_out"
)


def denoiser_builder() -> Build:
    """Imports diffusers; the function that builds a FluxTransformer2DModel."""
    from diffusers import FluxTransformer2DModel

    return on_meta_device(FluxTransformer2DModel)


_BUILDERS: Mapping[str, Callable[[], Build]] = {
    "transformer": denoiser_builder,
    "vae": ldm.vae_builder,
    CLIP: clip.text_builder,
    T5: t5_builder,
}


class Flux1(FlowTransformer):
    """The family `flux1`. Satisfies `families.base.ModelFamily`."""

    traits = FamilyTraits(
        name="flux1",
        text_encoders=(CLIP, T5),
        base_model_version="flux1",
        architecture="flux-1-dev/lora",
        implementation="https://github.com/black-forest-labs/flux",
        sampling=SamplingDefaults(steps=28, guidance=3.5, guidance_input=GUIDANCE),
        cache_dtype=torch.float32,  # of the latents; the text stays in bfloat16
        trains_text=False,
        reads_english_only=True,
    )
    builders = _BUILDERS
    targets = _TARGETS
    blocks = ("transformer_blocks", "single_transformer_blocks")
    feed_forwards = ("ff", "ff_context")

    def __init__(self, weights: BaseWeights, text: TextSettings) -> None:
        super().__init__(weights, text)
        self.caption_tokens = MOST if text.max_tokens is None else min(text.max_tokens, MOST)

    def text_description(self) -> list[Any]:
        return [LENGTH]

    def _load(self, component: str, dtype: torch.dtype | DtypeOf, to: Destination) -> nn.Module:
        if component != CLIP:
            return super()._load(component, dtype, to)
        return load_component(
            self.weights,
            component,
            self.builders[component],
            dtype=dtype,
            to=to,
            allows_extra=True,  # older libraries store the numbers of positions too
            installed_name=clip.installed_name,
        )

    # -- inputs ------------------------------------------------------------------------------------

    @cached_property
    def _clip_tokenizer(self) -> Any:
        return clip.model_tokenizer(self.weights, CLIP)

    @cached_property
    def _t5_tokenizer(self) -> Any:
        with tokenizer_folder(self.weights, T5, t5_tokenizer_files) as folder:
            return t5_tokenizer(folder, source=self.weights.path)

    def encode_image(self, encoders: Models, pixels: Tensor, *, tile: int = 0) -> dict[str, Tensor]:
        return {"latents": ldm.encode_with_vae(encoders["vae"], pixels, tile)}

    def encode_caption(self, encoders: Models, caption: str) -> dict[str, Tensor]:
        found, tokens = {}, self.tokenize(caption)
        if CLIP in encoders:
            found[POOLED] = encode_clip(encoders[CLIP], tokens["clip_ids"])
        if T5 in encoders:
            found[EMBEDS] = encode_t5(encoders[T5], tokens["t5_ids"], self._t5_tokenizer.pad_token_id)
        return found

    def tokenize(self, caption: str) -> dict[str, Tensor]:
        most = min(self.caption_tokens, clip.CAPTION_TOKENS)
        return {
            "clip_ids": clip.input_ids(self._clip_tokenizer, caption, tokens=most),
            "t5_ids": t5_ids(self._t5_tokenizer, caption, tokens=self.caption_tokens),
        }

    def first_unseen_tag(self, caption: str) -> str:
        return first_unseen_tag(lambda: self._t5_tokenizer, caption, tokens=self.caption_tokens)

    def collate(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    # -- the step ----------------------------------------------------------------------------------

    def conditioning(self, models: Models, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:  # noqa: ARG002
        pooled = inputs[POOLED]
        guidance = torch.full((len(pooled),), TRAINING_GUIDANCE, device=pooled.device)
        return {EMBEDS: inputs[EMBEDS], POOLED: pooled, GUIDANCE: guidance}

    def forward_work(self, shapes: Mapping[str, Shapes], inputs: Inputs) -> ForwardWork:
        rows, columns = (side // PATCH for side in inputs["latents"].shape[1:])
        return denoiser_work(shapes["denoiser"], picture=rows * columns, text=LENGTH)

    def noise_process(self) -> FlowMatching:
        """As pictures are sampled: the larger they are, the more steps lie in strong noise."""
        settings = self.weights.configs["scheduler"]
        shift = ShiftByTokens(
            fewest=settings.get("base_image_seq_len", 256),
            most=settings.get("max_image_seq_len", 4096),
            least=settings.get("base_shift", 0.5),
            greatest=settings.get("max_shift", 1.15),
            patch=PATCH,
        )
        return FlowMatching(LogitNormal(), training_shift=shift, sampling_shift=shift)

    def predict(
        self,
        models: Models,
        noisy_latents: Tensor,
        timesteps: Tensor,
        conditioning: Mapping[str, Tensor],
    ) -> Tensor:
        denoiser: Any = models["denoiser"]
        precision = denoiser.transformer_blocks[0].attn.norm_q.weight.dtype  # never a target
        rows, columns = (side // PATCH for side in noisy_latents.shape[2:])
        device = noisy_latents.device
        (prediction,) = denoiser(
            hidden_states=packed(noisy_latents, PATCH).to(precision),
            encoder_hidden_states=conditioning[EMBEDS].to(precision),
            pooled_projections=conditioning[POOLED].to(precision),
            timestep=timesteps.to(precision),
            guidance=conditioning[GUIDANCE],
            img_ids=grid_positions(rows, columns, device),
            txt_ids=torch.zeros(conditioning[EMBEDS].shape[1], 3, device=device),
            return_dict=False,
        )
        return unpacked(prediction, rows, columns, PATCH)

    def decode_latents(self, encoders: Models, latents: Tensor, *, free_memory: int | None = None) -> Tensor:
        return ldm.decode_with_vae(encoders["vae"], latents, free_memory)
