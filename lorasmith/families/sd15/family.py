"""Stable Diffusion 1.x: a UNet, CLIP's text encoder, a VAE, and the discrete noise schedule.

The libraries' model classes are imported when a component is loaded, not before: a run whose pictures and captions are
cached needs the UNet only. Nothing here goes online. Knows no adapter, no optimizer and no run.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.data.types import Example
from lorasmith.diffusion.process import DdpmProcess
from lorasmith.diffusion.sampling import SamplingDefaults
from lorasmith.errors import ModelError
from lorasmith.families.base import FamilyTraits, Models
from lorasmith.families.clip import (
    CAPTION_TOKENS,
    clip_hidden_states,
    clip_input_ids,
    clip_text_builder,
    clip_tokenizer,
    clip_tokenizer_from,
    first_unseen_tag,
    installed_name,
    published_name,
)
from lorasmith.families.identity import component_sha256
from lorasmith.families.loading import Build, load_component, on_meta_device
from lorasmith.families.weights import BaseWeights, TextSettings, check_clip_skip
from lorasmith.targets import TargetModule

_DENOISER_TARGETS = re.compile(
    r".*\.attentions\.\d+\.(proj_in|proj_out|transformer_blocks\.\d+\.(attn[12]\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2)))"
)
_TEXT_TARGETS = re.compile(r"text_model\.encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])")


class StableDiffusion15:
    """The family `sd15`. Satisfies `families.base.ModelFamily`."""

    traits = FamilyTraits(
        name="sd15",
        latent_channels=4,
        text_encoders=("text_encoder",),
        base_model_version="sd_v1",
        architecture="stable-diffusion-v1/lora",
        implementation="diffusers",
        sampling=SamplingDefaults(steps=12, guidance=3.0),
    )

    def __init__(self, weights: BaseWeights, text: TextSettings) -> None:
        check_clip_skip(weights, text.clip_skip)
        self.weights = weights
        self.text = text
        self.caption_tokens = CAPTION_TOKENS if text.max_tokens is None else text.max_tokens
        assert self.caption_tokens <= CAPTION_TOKENS, "CLIP has no positions for more"

    # -- loading -----------------------------------------------------------------------------------

    def encoder_hashes(self) -> dict[str, str]:
        return {component: component_sha256(self.weights, component) for component in ("vae", "text_encoder")}

    def load_encoders(self, device: torch.device, *, only: Collection[str] = ()) -> dict[str, nn.Module]:
        return {
            component: self._load(component, torch.float32, device) for component in only or ("vae", "text_encoder")
        }

    def load_models(
        self, *, trained: Collection[str], dtype: torch.dtype, device: torch.device
    ) -> dict[str, nn.Module]:
        text = {component: self._load(component, dtype, device) for component in trained}
        return {"denoiser": self._load("unet", dtype, device), **text}

    def _load(self, component: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
        return load_component(
            self.weights,
            component,
            _BUILDERS[component],
            dtype=dtype,
            device=device,
            allows_extra=component != "unet",
            installed_name=installed_name if component == "text_encoder" else lambda _, name: name,
        )

    @cached_property
    def _tokenizer(self) -> Any:
        files = self.weights.configs["tokenizer"]
        if files is None and self.weights.layout == "diffusers":
            tokenizer = clip_tokenizer_from(self.weights.path / "tokenizer", source=self.weights.path)
        else:
            tokenizer = clip_tokenizer(files, source=self.weights.path)
        if len(tokenizer) > self.weights.configs["text_encoder"]["vocab_size"]:
            raise ModelError("model_tokenizer", path=str(self.weights.path))
        return tokenizer

    def target_modules(self, models: Models) -> list[TargetModule]:
        found = []
        for component, pattern in (("denoiser", _DENOISER_TARGETS), ("text_encoder", _TEXT_TARGETS)):
            if component not in models:
                continue
            for path, _ in models[component].named_modules():
                name = path if component == "denoiser" else published_name(path)
                if pattern.fullmatch(name):
                    target = TargetModule.inside(
                        models[component], path, name=f"{component}.{name}", component=component
                    )
                    found.append(target)
        return found

    def set_checkpointing(self, models: Models, enabled: bool) -> None:
        denoiser: Any = models["denoiser"]
        if enabled:
            denoiser.enable_gradient_checkpointing()
        else:
            denoiser.disable_gradient_checkpointing()

    # -- inputs ------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_image(self, encoders: Models, pixels: Tensor) -> dict[str, Tensor]:
        vae: Any = encoders["vae"]
        posterior = vae.encode(pixels[None].to(vae.device, torch.float32)).latent_dist
        return {"latents": (posterior.mean * vae.config.scaling_factor)[0]}

    @torch.no_grad()
    def encode_caption(self, encoders: Models, caption: str) -> dict[str, Tensor]:
        encoded = self.conditioning(encoders, self.collate([self.tokenize(caption)]))
        return {name: value[0] for name, value in encoded.items()}

    def tokenize(self, caption: str) -> dict[str, Tensor]:
        return {"input_ids": clip_input_ids(self._tokenizer, caption, tokens=self.caption_tokens)}

    def first_unseen_tag(self, caption: str) -> str:
        return first_unseen_tag(lambda: self._tokenizer, caption, tokens=self.caption_tokens)

    def example_inputs(self, example: Example) -> dict[str, Tensor]:  # noqa: ARG002  the UNet sees no geometry
        return {}

    def collate(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    # -- the step ----------------------------------------------------------------------------------

    def conditioning(self, models: Models, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if "text_encoder" not in models:
            return {"prompt_embeds": inputs["prompt_embeds"]}
        encoder: Any = models["text_encoder"]
        input_ids = inputs["input_ids"].to(encoder.device)
        return {"prompt_embeds": clip_hidden_states(encoder, input_ids, clip_skip=self.text.clip_skip)}

    def noise_process(self) -> DdpmProcess:
        """As `scheduler_config.json` has it, with the defaults that diffusers gives to what it leaves out."""
        config = self.weights.configs["scheduler"]
        return DdpmProcess.build(
            beta_start=config.get("beta_start", 0.0001),
            beta_end=config.get("beta_end", 0.02),
            num_train_timesteps=config.get("num_train_timesteps", 1000),
            beta_schedule=config.get("beta_schedule", "linear"),
            prediction=self.weights.noise.prediction,
            zero_terminal_snr=self.weights.noise.zero_terminal_snr,
        )

    def predict(
        self,
        models: Models,
        noisy_latents: Tensor,
        timesteps: Tensor,
        conditioning: Mapping[str, Tensor],
    ) -> Tensor:
        denoiser: Any = models["denoiser"]
        precision = denoiser.conv_in.weight.dtype  # never a target: an adapter's float32 must not show here
        (prediction,) = denoiser(
            noisy_latents.to(precision),
            timesteps,
            encoder_hidden_states=conditioning["prompt_embeds"].to(precision),
            return_dict=False,
        )
        return prediction

    @torch.no_grad()
    def decode_latents(self, encoders: Models, latents: Tensor) -> Tensor:
        vae: Any = encoders["vae"]
        return vae.decode(latents.to(vae.device, torch.float32) / vae.config.scaling_factor).sample


def _unet_builder() -> Build:
    from diffusers import UNet2DConditionModel

    return on_meta_device(UNet2DConditionModel)


def _vae_builder() -> Build:
    from diffusers import AutoencoderKL

    return on_meta_device(AutoencoderKL)


_BUILDERS = {"unet": _unet_builder, "vae": _vae_builder, "text_encoder": clip_text_builder}
