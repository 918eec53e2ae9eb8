"""Diffusers' modular pipeline of Anima, with the interface of its other pipelines.

The steps are the pipeline's own. They are called one by one, as its call lets no gradient through.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.families.anima.torchvision import TRANSFORMS


class AnimaPipeline:
    """Without guidance."""

    def __init__(self, blocks: Any) -> None:
        self._blocks = blocks

    @classmethod
    def from_pretrained(cls, folder: Path, *, dtype: torch.dtype, local_files_only: bool) -> AnimaPipeline:
        from diffusers import ClassifierFreeGuidance, ModularPipeline
        from diffusers.models.transformers import transformer_cosmos

        transformer_cosmos.transforms = getattr(transformer_cosmos, "transforms", TRANSFORMS)
        blocks = ModularPipeline.from_pretrained(folder, local_files_only=local_files_only)
        blocks.load_components(dtype=dtype, local_files_only=local_files_only)
        blocks.update_components(guider=ClassifierFreeGuidance(enabled=False))
        return cls(blocks)

    def set_progress_bar_config(self, **_: Any) -> None:
        pass

    def load_lora_weights(self, path: str) -> None:
        self._blocks.load_lora_weights(path)

    def __getattr__(self, component: str) -> Any:
        return getattr(self._blocks, component)

    @property
    def transformer(self) -> Any:
        return self._blocks.transformer

    @transformer.setter
    def transformer(self, module: Any) -> None:
        self._blocks.update_components(transformer=module)

    @property
    def scheduler(self) -> Any:
        return self._blocks.scheduler

    @scheduler.setter
    def scheduler(self, scheduler: Any) -> None:
        self._blocks.update_components(scheduler=scheduler)

    def encode_prompt(self, prompt: Sequence[str]) -> tuple[Tensor]:
        """(B, 512, width): the caption as the denoiser takes it."""
        from diffusers.modular_pipelines.anima.before_denoise import AnimaTextConditioningStep
        from diffusers.modular_pipelines.anima.encoders import AnimaTextEncoderStep

        where = torch.device("cpu")
        asked = {"prepare_unconditional_embeds": False, "device": where}
        states = AnimaTextEncoderStep.encode_prompt(self._blocks, list(prompt), **asked)
        kept = {name: value for name, value in states.items() if value is not None}
        types = {"conditioning_dtype": torch.float32, "output_dtype": torch.float32}
        return (AnimaTextConditioningStep._condition_prompt_embeds(self._blocks, **kept, device=where, **types),)

    @torch.no_grad()
    def __call__(
        self, prompt: Sequence[str], latents: Tensor, height: int, width: int, num_inference_steps: int, **_: Any
    ) -> Any:
        """The pictures' latents, as `images`."""
        from diffusers.modular_pipelines.anima.before_denoise import retrieve_timesteps
        from diffusers.modular_pipelines.anima.denoise import AnimaDenoiseStep
        from diffusers.modular_pipelines.modular_pipeline import BlockState

        (embeds,) = self.encode_prompt(prompt=prompt)
        evenly = [1 - step / num_inference_steps for step in range(num_inference_steps)]
        timesteps, steps = retrieve_timesteps(self.scheduler, sigmas=evenly)
        self.scheduler.set_begin_index(0)
        state = BlockState(
            latents=latents,
            dtype=torch.float32,
            prompt_embeds=embeds,
            negative_prompt_embeds=None,
            padding_mask=torch.zeros(1, 1, height, width),
            num_inference_steps=steps,
        )
        for number, timestep in enumerate(timesteps):
            for block in AnimaDenoiseStep().sub_blocks.values():
                kind: Any = type(block)
                step = kind.__call__.__wrapped__  # without no_grad
                _, state = step(block, self._blocks, state, i=number, t=timestep)
        return SimpleNamespace(images=state.latents)
