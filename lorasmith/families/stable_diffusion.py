"""Stable Diffusion 1.x and 2.x: a UNet, a text encoder, a VAE, and the discrete noise process.

The libraries' model classes are imported when a component is loaded, not before: a run whose pictures and captions are
cached needs the UNet only. Nothing here goes online. Knows no adapter, no optimizer and no run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.data.types import Example, Inputs
from lorasmith.diffusion.process import DdpmProcess
from lorasmith.families import clip
from lorasmith.families import latent_diffusion as ldm
from lorasmith.families.base import FamilyTraits, Models
from lorasmith.families.checkpointing import Checkpointing, checkpoint_blocks
from lorasmith.families.forward_work import ForwardWork, Shapes
from lorasmith.families.identity import component_sha256
from lorasmith.families.loading import Destination, load_component
from lorasmith.families.weights import BaseWeights, TextSettings, check_clip_skip
from lorasmith.targets import TargetModule

_BUILDERS = {"unet": ldm.unet_builder, "vae": ldm.vae_builder, "text_encoder": clip.text_builder}


class StableDiffusion:
    """All of `families.base.ModelFamily` but the facts that a family adds."""

    traits: FamilyTraits
    padding: int | None = None
    """Number of the token that pads captions where it is not the tokenizer's own."""

    def __init__(self, weights: BaseWeights, text: TextSettings) -> None:
        check_clip_skip(weights, text.clip_skip)
        self.weights = weights
        self.text = text
        self.caption_tokens = clip.caption_tokens(text)

    # -- loading -----------------------------------------------------------------------------------

    def encoder_hashes(self) -> dict[str, str]:
        return {component: component_sha256(self.weights, component) for component in ("vae", "text_encoder")}

    def load_encoders(self, to: Destination, *, only: Collection[str] = ()) -> dict[str, nn.Module]:
        return {component: self._load(component, torch.float32, to) for component in only or ("vae", "text_encoder")}

    def load_models(self, *, trained: Collection[str], dtype: torch.dtype, to: Destination) -> dict[str, nn.Module]:
        text = {component: self._load(component, dtype, to) for component in trained}
        return {"denoiser": self._load("unet", dtype, to), **text}

    def _load(self, component: str, dtype: torch.dtype, to: Destination) -> nn.Module:
        return load_component(
            self.weights,
            component,
            _BUILDERS[component],
            dtype=dtype,
            to=to,
            allows_extra=component != "unet",
            installed_name=clip.installed_name if component == "text_encoder" else lambda _, name: name,
        )

    def target_modules(self, models: Models) -> list[TargetModule]:
        text = clip.text_targets(models["text_encoder"], "text_encoder") if "text_encoder" in models else ()
        return [*ldm.unet_targets(models["denoiser"]), *text]

    def repeated_blocks(self, models: Models) -> list[nn.Module]:
        return ldm.repeated_unet_blocks(models["denoiser"])

    def set_checkpointing(self, models: Models, level: Checkpointing) -> None:
        checkpoint_blocks(models["denoiser"], level)

    # -- inputs ------------------------------------------------------------------------------------

    @cached_property
    def _tokenizer(self) -> Any:
        return clip.model_tokenizer(self.weights, "text_encoder", is_padding_plain=self.padding is not None)

    def encode_image(self, encoders: Models, pixels: Tensor, *, tile: int = 0) -> dict[str, Tensor]:
        return {"latents": ldm.encode_with_vae(encoders["vae"], pixels, tile)}

    @torch.no_grad()
    def encode_caption(self, encoders: Models, caption: str) -> dict[str, Tensor]:
        encoded = self.conditioning(encoders, self.collate([self.tokenize(caption)]))
        return {name: value[0] for name, value in encoded.items()}

    def tokenize(self, caption: str) -> dict[str, Tensor]:
        return clip.caption_inputs(self._tokenizer, caption, self.text, name="input", padding=self.padding)

    def first_unseen_tag(self, caption: str) -> str:
        return clip.first_unseen_tag(lambda: self._tokenizer, self.text.words_of(caption), tokens=self.caption_tokens)

    def example_inputs(self, example: Example) -> dict[str, Tensor]:  # noqa: ARG002  the UNet sees no geometry
        return {}

    def collate(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    # -- the step ----------------------------------------------------------------------------------

    def conditioning(self, models: Models, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if "text_encoder" not in models:
            return {"prompt_embeds": inputs["prompt_embeds"]}
        encoder, weights = models["text_encoder"], inputs.get("input_weights")
        hidden = clip.hidden_states(encoder, inputs["input_ids"], clip_skip=self.text.clip_skip, weights=weights)
        return {"prompt_embeds": hidden}

    def forward_work(self, shapes: Mapping[str, Shapes], inputs: Inputs) -> ForwardWork:
        return ldm.forward_work(shapes["denoiser"], inputs)

    def noise_process(self) -> DdpmProcess:
        return ldm.ddpm_process(self.weights)

    def predict(
        self,
        models: Models,
        noisy_latents: Tensor,
        timesteps: Tensor,
        conditioning: Mapping[str, Tensor],
    ) -> Tensor:
        return ldm.predict_with_unet(models["denoiser"], noisy_latents, timesteps, conditioning["prompt_embeds"])

    def decode_latents(self, encoders: Models, latents: Tensor, *, free_memory: int | None = None) -> Tensor:
        return ldm.decode_with_vae(encoders["vae"], latents, free_memory)
