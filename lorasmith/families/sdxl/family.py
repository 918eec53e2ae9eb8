"""Stable Diffusion XL: a UNet that also sees the sizes of a picture, two text encoders, a VAE, the discrete noise
process.

The libraries' model classes are imported when a component is loaded, not before. Nothing here goes online. Knows no
adapter, no optimizer and no run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.data.types import Example, Inputs
from lorasmith.diffusion.process import DdpmProcess
from lorasmith.diffusion.sampling import SamplingDefaults
from lorasmith.families import clip
from lorasmith.families import latent_diffusion as ldm
from lorasmith.families.base import FamilyTraits, Models
from lorasmith.families.checkpointing import Checkpointing, checkpoint_blocks
from lorasmith.families.forward_work import ForwardWork, Shapes
from lorasmith.families.identity import component_sha256
from lorasmith.families.loading import Build, Destination, load_component
from lorasmith.families.weights import BaseWeights, TextSettings, check_clip_skip
from lorasmith.targets import TargetModule

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
POOLED = "text_encoder_2"
"""The text encoder whose pooled output, projected, is a condition too."""

_PADDING = {"text_encoder": None, "text_encoder_2": 0}  # OpenCLIP pads with 0, CLIP with the end of the text

_BUILDERS: Mapping[str, Callable[[], Build]] = {
    "unet": ldm.unet_builder,
    "vae": ldm.vae_builder,
    "text_encoder": clip.text_builder,
    "text_encoder_2": partial(clip.text_builder, "CLIPTextModelWithProjection"),
}


class StableDiffusionXL:
    """The family `sdxl`. Satisfies `families.base.ModelFamily`.

    Clip skip counts layers from the end, as WebUI and ComfyUI do; the last layer is never taken: 1 and 2 are the same.
    """

    traits = FamilyTraits(
        name="sdxl",
        text_encoders=TEXT_ENCODERS,
        base_model_version="sdxl_base_v1-0",
        architecture="stable-diffusion-xl-v1-base/lora",
        implementation="https://github.com/Stability-AI/generative-models",
        sampling=SamplingDefaults(steps=14, guidance=4.0),
        least_clip_skip=2,  # the UNet was trained on the last layer but one of both text encoders
        cache_dtype=torch.float16,
        reads_english_only=True,
    )

    def __init__(self, weights: BaseWeights, text: TextSettings) -> None:
        check_clip_skip(weights, text.clip_skip)
        self.weights = weights
        self.text = text
        self.caption_tokens = clip.caption_tokens(text)

    # -- loading -----------------------------------------------------------------------------------

    def encoder_hashes(self) -> dict[str, str]:
        return {component: component_sha256(self.weights, component) for component in ("vae", *TEXT_ENCODERS)}

    def load_encoders(self, to: Destination, *, only: Collection[str] = ()) -> dict[str, nn.Module]:
        wanted = only or ("vae", *TEXT_ENCODERS)
        return {component: self._load(component, torch.float32, to) for component in wanted}

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
            installed_name=clip.installed_name if component in TEXT_ENCODERS else lambda _, name: name,
        )

    def target_modules(self, models: Models) -> list[TargetModule]:
        return list(_targets(models))

    def repeated_blocks(self, models: Models) -> list[nn.Module]:
        return ldm.repeated_unet_blocks(models["denoiser"])

    def set_checkpointing(self, models: Models, level: Checkpointing) -> None:
        checkpoint_blocks(models["denoiser"], level)

    # -- inputs ------------------------------------------------------------------------------------

    @cached_property
    def _tokenizers(self) -> dict[str, Any]:
        return {
            name: clip.model_tokenizer(self.weights, name, is_padding_plain=_PADDING[name] is not None)
            for name in TEXT_ENCODERS
        }

    def encode_image(self, encoders: Models, pixels: Tensor, *, tile: int = 0) -> dict[str, Tensor]:
        return {"latents": ldm.encode_with_vae(encoders["vae"], pixels, tile)}

    @torch.no_grad()
    def encode_caption(self, encoders: Models, caption: str) -> dict[str, Tensor]:
        encoded = self._encoded(encoders, self.collate([self.tokenize(caption)]))
        return {name: value[0] for name, value in encoded.items()}

    def tokenize(self, caption: str) -> dict[str, Tensor]:
        inputs: dict[str, Tensor] = {}
        for name, tokenizer in self._tokenizers.items():
            inputs |= clip.caption_inputs(tokenizer, caption, self.text, name=name, padding=_PADDING[name])
        return inputs

    def first_unseen_tag(self, caption: str) -> str:
        words, tokens = self.text.words_of(caption), self.caption_tokens
        return clip.first_unseen_tag(lambda: self._tokenizers["text_encoder"], words, tokens=tokens)

    def example_inputs(self, example: Example) -> dict[str, Tensor]:
        """(6,): original height and width, offset of the cut from above and left, height and width of the bucket."""
        original, crop, bucket = example.original, example.crop, example.bucket
        sizes = (original.height, original.width, crop.top, crop.left, bucket.height, bucket.width)
        return {"time_ids": torch.tensor(sizes, dtype=torch.float32)}

    def collate(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    # -- the step ----------------------------------------------------------------------------------

    def conditioning(self, models: Models, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        encoded = {**inputs, **self._encoded(models, inputs)}
        prompt_embeds = torch.cat([encoded[f"{name}_embeds"] for name in TEXT_ENCODERS], dim=-1)
        return {"prompt_embeds": prompt_embeds, "text_embeds": encoded["pooled"], "time_ids": encoded["time_ids"]}

    def _encoded(self, models: Models, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the text encoders that are among `models` make of the tokens."""
        found, layer = {}, max(self.text.clip_skip, self.traits.least_clip_skip)
        for name in TEXT_ENCODERS:
            if name not in models:
                continue
            ids, weights = inputs[f"{name}_ids"], inputs.get(f"{name}_weights")
            output = clip.encoder_output(models[name], ids)
            found[f"{name}_embeds"] = clip.of_captions(output.hidden_states[-layer], ids, weights)
            if name == POOLED:  # of the first block
                found["pooled"] = output.text_embeds[:: len(output.text_embeds) // len(ids)]
        return found

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
        added = {name: conditioning[name] for name in ("text_embeds", "time_ids")}
        unet = models["denoiser"]
        return ldm.predict_with_unet(unet, noisy_latents, timesteps, conditioning["prompt_embeds"], added)

    def decode_latents(self, encoders: Models, latents: Tensor, *, free_memory: int | None = None) -> Tensor:
        return ldm.decode_with_vae(encoders["vae"], latents, free_memory)


def _targets(models: Models) -> Iterator[TargetModule]:
    yield from ldm.unet_targets(models["denoiser"])
    for name in TEXT_ENCODERS:
        if name in models:
            yield from clip.text_targets(models[name], name)
