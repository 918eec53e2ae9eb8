"""Stable Diffusion 1.x: a UNet, CLIP's text encoder, a VAE, and the discrete noise schedule.

The libraries' model classes are imported when a component is loaded, not before: a run whose pictures and captions are
cached needs the UNet only. Nothing here goes online. Knows no adapter, no optimizer and no run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lorasmith.diffusion.noise_schedules import DdpmSchedule, Draws, Noised
from lorasmith.diffusion.sampling import ddim
from lorasmith.errors import ModelError
from lorasmith.exporting import kohya
from lorasmith.families.base import Encoders, FamilyTraits
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

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_DENOISER_TARGETS = re.compile(
    r".*\.attentions\.\d+\.(proj_in|proj_out|transformer_blocks\.\d+\.(attn[12]\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2)))"
)
_TEXT_TARGETS = re.compile(r"text_model\.encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])")


class StableDiffusion15:
    """The family `sd15`. Satisfies `families.base.ModelFamily`."""

    traits = FamilyTraits(
        name="sd15",
        latent_channels=4,
        caption_tokens=CAPTION_TOKENS,
        text_encoders=("text_encoder",),
        base_model_version="sd_v1",
        architecture="stable-diffusion-v1/lora",
        implementation="diffusers",
    )

    def __init__(self, weights: BaseWeights, text: TextSettings) -> None:
        check_clip_skip(weights, text.clip_skip)
        self.weights = weights
        self.text = text

    @cached_property
    def schedule(self) -> DdpmSchedule:
        """As `scheduler_config.json` has it, with the defaults that diffusers gives to what it leaves out."""
        config = self.weights.configs["scheduler"]
        return DdpmSchedule.build(
            beta_start=config.get("beta_start", 0.0001),
            beta_end=config.get("beta_end", 0.02),
            num_train_timesteps=config.get("num_train_timesteps", 1000),
            beta_schedule=config.get("beta_schedule", "linear"),
            prediction=self.weights.noise.prediction,
            zero_terminal_snr=self.weights.noise.zero_terminal_snr,
        )

    # -- loading -----------------------------------------------------------------------------------

    def encoder_hashes(self) -> dict[str, str]:
        return {component: component_sha256(self.weights, component) for component in ("vae", "text_encoder")}

    def load_encoders(self, *, clip_skip: int, where: torch.device, only: Collection[str] = ()) -> Encoders:
        check_clip_skip(self.weights, clip_skip)
        wanted = only or ("vae", "text_encoder")
        modules = {component: self._load(component, torch.float32, where) for component in wanted}
        return Encoders(modules=modules, tokenizers={"text_encoder": self._tokenizer}, clip_skip=clip_skip)

    def load_models(
        self, *, trained: Collection[str], precision: torch.dtype, where: torch.device
    ) -> dict[str, nn.Module]:
        models = {"denoiser": self._load("unet", precision, where)}
        for component in self.traits.text_encoders:
            if component in trained:
                models[component] = self._load(component, precision, where)
        return models

    def _load(self, component: str, precision: torch.dtype, where: torch.device) -> nn.Module:
        return load_component(
            self.weights,
            component,
            _BUILDERS[component],
            dtype=precision,
            device=where,
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

    def targets(self, models: Mapping[str, nn.Module]) -> list[TargetModule]:
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

    # -- encoding ----------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_images(self, encoders: Encoders, pixels: Tensor) -> Tensor:
        assert pixels.shape[0] == 1, "one picture at a time: what is cached must not depend on its neighbours"
        vae: Any = encoders.modules["vae"]
        posterior = vae.encode(pixels.to(vae.device, torch.float32)).latent_dist
        return posterior.mean * vae.config.scaling_factor

    @torch.no_grad()
    def encode_captions(self, encoders: Encoders, captions: Sequence[str]) -> dict[str, Tensor]:
        tokens = self.tokenize(captions)["input_ids"]
        models = {"text_encoder": encoders.modules["text_encoder"]}
        rows = [self.encode_tokens(models, {"input_ids": row[None]}, clip_skip=encoders.clip_skip) for row in tokens]
        return {"prompt_embeds": torch.cat([row["prompt_embeds"] for row in rows])}

    def tokenize(self, captions: Sequence[str]) -> dict[str, Tensor]:
        return {"input_ids": clip_input_ids(self._tokenizer, captions)}

    def first_unseen_tag(self, caption: str) -> str:
        return first_unseen_tag(lambda: self._tokenizer, caption)

    def collate_conditioning(self, cached: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {"prompt_embeds": torch.stack([one["prompt_embeds"] for one in cached])}

    def conditioning_in(self, conditioning: Mapping[str, Tensor], precision: torch.dtype) -> dict[str, Tensor]:
        return {name: value.to(precision) for name, value in conditioning.items()}

    def encode_tokens(
        self, models: Mapping[str, nn.Module], tokens: Mapping[str, Tensor], *, clip_skip: int
    ) -> dict[str, Tensor]:
        check_clip_skip(self.weights, clip_skip)
        encoder: Any = models["text_encoder"]
        input_ids = tokens["input_ids"].to(encoder.device)
        return {"prompt_embeds": clip_hidden_states(encoder, input_ids, clip_skip=clip_skip)}

    # -- the step ----------------------------------------------------------------------------------

    def add_noise(self, latents: Tensor, draw: Draws) -> Noised:
        noise = draw.normal("noise", tuple(latents.shape)).to(latents.device)
        timesteps = self.schedule.timesteps(draw.uniform("timestep", (len(latents),))).to(latents.device)
        return self.schedule.add_noise(latents, noise, timesteps)

    def predict(self, models: Mapping[str, nn.Module], noised: Noised, conditioning: Mapping[str, Tensor]) -> Tensor:
        denoiser: Any = models["denoiser"]
        precision = denoiser.conv_in.weight.dtype  # never a target: an adapter's float32 must not show here
        (prediction,) = denoiser(
            noised.sample.to(precision),
            noised.timesteps,
            encoder_hidden_states=conditioning["prompt_embeds"].to(precision),
            return_dict=False,
        )
        return prediction

    def denoise(
        self,
        predict: Callable[[Tensor, Tensor], Tensor],
        latents: Tensor,
        noise: Tensor,
        *,
        strength: float,
        steps: int,
    ) -> Tensor:
        return ddim(predict, self.schedule, latents, noise, strength=strength, steps=steps)

    @torch.no_grad()
    def decode_latents(self, encoders: Encoders, latents: Tensor) -> Tensor:
        vae: Any = encoders.modules["vae"]
        return vae.decode(latents.to(vae.device, torch.float32) / vae.config.scaling_factor).sample

    # -- files and samples -------------------------------------------------------------------------

    def set_checkpointing(self, models: Mapping[str, nn.Module], enabled: bool) -> None:
        denoiser: Any = models["denoiser"]
        if enabled:
            denoiser.enable_gradient_checkpointing()
        else:
            denoiser.disable_gradient_checkpointing()

    def to_kohya(self, tensors: Mapping[str, Tensor], *, alpha: float) -> dict[str, Tensor]:
        return kohya.to_kohya(tensors, family=self.traits.name, alpha=alpha)

    def from_kohya(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return kohya.from_kohya(tensors, family=self.traits.name)

    def pipeline(self, models: Mapping[str, nn.Module], encoders: Encoders) -> DiffusionPipeline:
        from diffusers import DDIMScheduler, StableDiffusionPipeline

        settings = {"timestep_spacing": "trailing"} if self.weights.noise.zero_terminal_snr else {}
        scheduler = DDIMScheduler.from_config({**self.weights.configs["scheduler"], **settings})
        pipeline: Any = StableDiffusionPipeline(
            vae=encoders.modules["vae"],
            text_encoder=models.get("text_encoder", encoders.modules["text_encoder"]),
            tokenizer=encoders.tokenizers["text_encoder"],
            unet=models["denoiser"],
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        return pipeline


def _unet_builder() -> Build:
    from diffusers import UNet2DConditionModel

    return on_meta_device(UNet2DConditionModel)


def _vae_builder() -> Build:
    from diffusers import AutoencoderKL

    return on_meta_device(AutoencoderKL)


_BUILDERS = {"unet": _unet_builder, "vae": _vae_builder, "text_encoder": clip_text_builder}
