"""Anima: the transformer of Cosmos-Predict2, captions by Qwen3 and T5's tokens, the VAE of Qwen-Image, flow matching.

The libraries' model classes are imported when a component is loaded, not before. Nothing here goes online. Knows no
adapter, no optimizer and no run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lorasmith.data.types import Inputs
from lorasmith.diffusion.densities import LogitNormal
from lorasmith.diffusion.flow import FixedShift, FlowMatching
from lorasmith.diffusion.sampling import SamplingDefaults
from lorasmith.errors import ModelError
from lorasmith.families.anima.layout import MOST, PATCH, vae_factor
from lorasmith.families.anima.text import (
    conditioner_builder,
    encode,
    first_unseen_tag,
    qwen_ids,
    qwen_tokenizer,
    t5_ids,
)
from lorasmith.families.anima.work import denoiser_work
from lorasmith.families.base import FamilyTraits, Models
from lorasmith.families.flow_transformer import FlowTransformer
from lorasmith.families.forward_work import ForwardWork, Shapes
from lorasmith.families.loading import Build, on_meta_device
from lorasmith.families.qwen_bpe import qwen_tokenizer_files
from lorasmith.families.qwen_text import qwen3_builder
from lorasmith.families.qwen_vae import decode_with_vae, encode_with_vae, vae_builder
from lorasmith.families.t5_text import t5_tokenizer
from lorasmith.families.t5_vocabulary import t5_tokenizer_files
from lorasmith.families.tokenizer_files import tokenizer_folder
from lorasmith.families.weights import BaseWeights, TextSettings

TEXT, CONDITIONER = "text_encoder", "text_conditioner"
EMBEDS = "prompt_embeds"
SHIFT = 3.0
"""The shift with which Anima is sampled, where the scheduler's config has none."""
_LONGEST = 4096  # tokens along a side: 65,536 pixels
_TARGETS = re.compile(
    r"transformer_blocks\.\d+\.(attn[12]\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2)|norm[123]\.linear_[12])"
    r"|patch_embed\.proj|time_embed\.t_embedder\.linear_[12]|norm_out\.linear_[12]|proj_out"
)


def denoiser_builder() -> Build:
    """Imports diffusers; the function that builds a CosmosTransformer3DModel without its padding mask.

    The mask is a channel of zeros behind those of the latents. Diffusers resizes it with torchvision, which is built
    for a single version of torch; `predict` appends the zeros to the latents instead, and the model has a channel more.

    Positions are computed from a formula without an end, which diffusers cuts after the largest number in `max_size`:
    it fails with pictures that have a side of more than 2048 pixels. Here it goes on, as in ComfyUI.
    """
    from diffusers import CosmosTransformer3DModel

    build = on_meta_device(CosmosTransformer3DModel)
    changed = {"concat_padding_mask": False, "max_size": [_LONGEST] * 3}
    return lambda config: build({**config, "in_channels": config["in_channels"] + 1, **changed})


_BUILDERS: Mapping[str, Callable[[], Build]] = {
    "transformer": denoiser_builder,
    "vae": vae_builder,
    TEXT: qwen3_builder,
    CONDITIONER: conditioner_builder,
}


class Anima(FlowTransformer):
    """The family `anima`. Satisfies `families.base.ModelFamily`."""

    traits = FamilyTraits(
        name="anima",
        text_encoders=(TEXT, CONDITIONER),
        base_model_version="anima",
        architecture="anima-preview/lora",
        implementation="https://huggingface.co/circlestone-labs/Anima",
        sampling=SamplingDefaults(steps=30, guidance=4.0),
        cache_dtype=torch.float32,  # of the latents; the text stays in bfloat16
        trains_text=False,
    )
    builders = _BUILDERS
    targets = _TARGETS
    blocks = ("transformer_blocks",)

    def __init__(self, weights: BaseWeights, text: TextSettings) -> None:
        super().__init__(weights, text)
        self.caption_tokens = MOST if text.max_tokens is None else min(text.max_tokens, MOST)

    def text_description(self) -> list[Any]:
        return []

    # -- inputs ------------------------------------------------------------------------------------

    @cached_property
    def _qwen(self) -> Any:
        with tokenizer_folder(self.weights, TEXT, qwen_tokenizer_files) as folder:
            tokenizer = qwen_tokenizer(folder, source=self.weights.path)
        if len(tokenizer) > self.weights.configs[TEXT]["vocab_size"]:
            raise ModelError("model_tokenizer", path=str(self.weights.path))
        return tokenizer

    @cached_property
    def _t5(self) -> Any:
        with tokenizer_folder(self.weights, CONDITIONER, t5_tokenizer_files) as folder:
            return t5_tokenizer(folder, source=self.weights.path)

    def encode_image(self, encoders: Models, pixels: Tensor, *, tile: int = 0) -> dict[str, Tensor]:
        return {"latents": encode_with_vae(encoders["vae"], pixels, tile)}

    def encode_caption(self, encoders: Models, caption: str) -> dict[str, Tensor]:
        if TEXT not in encoders:
            return {}
        tokens = self.tokenize(caption)
        return {EMBEDS: encode(encoders[TEXT], encoders[CONDITIONER], tokens["token_ids"], tokens["t5_token_ids"])}

    def tokenize(self, caption: str) -> dict[str, Tensor]:
        return {
            "token_ids": qwen_ids(self._qwen, caption, self.caption_tokens),
            "t5_token_ids": t5_ids(self._t5, caption, self.caption_tokens),
        }

    def first_unseen_tag(self, caption: str) -> str:
        return first_unseen_tag(lambda: self._qwen, lambda: self._t5, caption, tokens=self.caption_tokens)

    def collate(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The denoiser attends to the zeros behind a text as to the text: all texts are as long."""
        length = self.weights.configs[CONDITIONER]["min_sequence_length"]
        batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0] if name != EMBEDS}
        texts = [row[EMBEDS] for row in rows]
        batch[EMBEDS] = torch.stack([pad(text, (0, 0, 0, length - len(text))) for text in texts])
        return batch

    # -- the step ----------------------------------------------------------------------------------

    def conditioning(self, models: Models, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:  # noqa: ARG002
        return {EMBEDS: inputs[EMBEDS]}

    def forward_work(self, shapes: Mapping[str, Shapes], inputs: Inputs) -> ForwardWork:
        rows, columns = (side // PATCH for side in inputs["latents"].shape[1:])
        length = self.weights.configs[CONDITIONER]["min_sequence_length"]
        return denoiser_work(shapes["denoiser"], picture=rows * columns, text=length)

    def noise_process(self) -> FlowMatching:
        shift = self.weights.configs["scheduler"].get("shift", SHIFT)
        return FlowMatching(LogitNormal(), sampling_shift=FixedShift(shift))

    def predict(
        self,
        models: Models,
        noisy_latents: Tensor,
        timesteps: Tensor,
        conditioning: Mapping[str, Tensor],
    ) -> Tensor:
        denoiser: Any = models["denoiser"]
        precision = denoiser.time_embed.norm.weight.dtype  # never a target
        latents = pad(noisy_latents, (0, 0, 0, 0, 0, 1))  # the padding mask
        (prediction,) = denoiser(
            hidden_states=latents[:, :, None].to(precision),
            timestep=timesteps.to(precision),
            encoder_hidden_states=conditioning[EMBEDS].to(precision),
            return_dict=False,
        )
        return prediction[:, :, 0]

    def decode_latents(self, encoders: Models, latents: Tensor, *, free_memory: int | None = None) -> Tensor:
        return decode_with_vae(encoders["vae"], latents, vae_factor(self.weights.configs), free_memory)
