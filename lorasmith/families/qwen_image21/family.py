"""Qwen-Image 2.1: a transformer over text and picture, the text encoder Qwen3-VL, a VAE of four channels, flow matching.

The libraries' model classes are imported when a component is loaded, not before. Nothing here goes online. Knows no
adapter, no optimizer and no run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from lorasmith.data.types import Inputs
from lorasmith.diffusion.densities import LogitNormal
from lorasmith.diffusion.flow import FlowMatching, ShiftByTokens
from lorasmith.diffusion.sampling import SamplingDefaults
from lorasmith.errors import ModelError
from lorasmith.families.base import FamilyTraits, Models
from lorasmith.families.flow_transformer import FlowTransformer, padded_texts
from lorasmith.families.loading import Build
from lorasmith.families.qwen_image21.denoiser import denoiser_builder, velocity
from lorasmith.families.qwen_image21.text import DROPPED, NO_CAPTION, TEMPLATE, encode, text_builder
from lorasmith.families.qwen_image21.vae import decode, encode_opaque, vae_builder
from lorasmith.families.qwen_image21.work import denoiser_work
from lorasmith.families.unet_work import ForwardWork, Shapes
from lorasmith.families.weights import BaseWeights, TextSettings

TEXT = "text_encoder"
EMBEDS, MASK = "prompt_embeds", "prompt_mask"
TEXT_STEP = 64  # tokens, of which padded texts are multiples
_TARGETS = re.compile(
    r"transformer_blocks\.\d+\.(attn\.to_(q|k|v|out\.0)|img_mlp\.(proj|gate_layer|out))"
    r"|img_in|txt_in\.(in|out)_layer|time_text_embed\.timestep_embedder\.linear_[12]|modulation\.1|norm_out\.linear"
    r"|proj_out"
)
_BUILDERS: Mapping[str, Callable[[], Build]] = {
    "transformer": denoiser_builder,
    "vae": vae_builder,
    TEXT: text_builder,
}


class QwenImage21(FlowTransformer):
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
    builders = _BUILDERS
    targets = _TARGETS
    blocks = ("transformer_blocks",)

    def __init__(self, weights: BaseWeights, text: TextSettings) -> None:
        super().__init__(weights, text)
        self.caption_tokens = TEMPLATE.caption_tokens(text)

    def text_description(self) -> list[Any]:
        """With the version of the library: what it calls the last hidden state has changed between versions."""
        return [TEMPLATE.before, TEMPLATE.after, DROPPED, NO_CAPTION, "before the norm", version("transformers")]

    # -- inputs ------------------------------------------------------------------------------------

    @cached_property
    def _tokenizer(self) -> Any:
        folder = self.weights.path / self.weights.names.tokenizers[TEXT]
        tokenizer = TEMPLATE.tokenizer_from(folder, source=self.weights.path)
        if len(tokenizer) > self.weights.configs[TEXT]["text_config"]["vocab_size"]:
            raise ModelError("model_tokenizer", path=str(self.weights.path))
        return tokenizer

    def encode_image(self, encoders: Models, pixels: Tensor, *, tile: int = 0) -> dict[str, Tensor]:
        return {"latents": encode_opaque(encoders["vae"], pixels, tile)}

    def encode_caption(self, encoders: Models, caption: str) -> dict[str, Tensor]:
        if TEXT not in encoders:
            return {}
        return {EMBEDS: encode(encoders[TEXT], self.tokenize(caption)["token_ids"])}

    def tokenize(self, caption: str) -> dict[str, Tensor]:
        return {"token_ids": TEMPLATE.token_ids(self._tokenizer, caption or NO_CAPTION, tokens=self.caption_tokens)}

    def first_unseen_tag(self, caption: str) -> str:
        return TEMPLATE.first_unseen_tag(lambda: self._tokenizer, caption, tokens=self.caption_tokens)

    def collate(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0] if name != EMBEDS}
        batch[EMBEDS], batch[MASK] = padded_texts(rows, EMBEDS, TEXT_STEP)
        return batch

    # -- the step ----------------------------------------------------------------------------------

    def conditioning(self, models: Models, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:  # noqa: ARG002
        return {name: inputs[name] for name in (EMBEDS, MASK)}

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
