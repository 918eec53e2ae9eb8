"""FLUX.2 klein: a transformer over text and picture, the text encoder Qwen3, the VAE of FLUX.2, flow matching.

Queries, keys and values of its two-stream blocks are a layer each in diffusers' files, and one layer in the published
checkpoint, for which LoRA files are made: they are joined when the denoiser is loaded.

The libraries' model classes are imported when a component is loaded, not before. Nothing here goes online. Knows no
adapter, no optimizer and no run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from lorasmith.data.types import Inputs
from lorasmith.diffusion.densities import LogitNormal
from lorasmith.diffusion.flow import FixedShift, FlowMatching
from lorasmith.diffusion.sampling import SamplingDefaults
from lorasmith.families.base import FamilyTraits, Models
from lorasmith.families.flow_transformer import grid_positions, packed, unpacked
from lorasmith.families.flux2_klein.layout import LAYERS, LENGTH, TAPS
from lorasmith.families.flux2_klein.shift import ShiftBySteps
from lorasmith.families.flux2_klein.text import TEMPLATE, encode, token_ids
from lorasmith.families.flux2_klein.work import denoiser_work
from lorasmith.families.flux2_vae import decode_with_vae, encode_with_vae, vae_builder
from lorasmith.families.forward_work import ForwardWork, Shapes
from lorasmith.families.loading import Build, Destination, StoreOf, on_meta_device
from lorasmith.families.qwen_text import qwen3_builder
from lorasmith.families.qwen_transformer import EMBEDS, TEXT, QwenTransformer

_TRAINING_SHIFT = 3.0
_JOINED = {"to_qkv": ("to_q", "to_k", "to_v"), "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj")}
_TARGETS = re.compile(
    r"transformer_blocks\.\d+\.(attn\.(to_qkv|to_added_qkv|to_out\.0|to_add_out)|ff(_context)?\.linear_(in|out))"
    r"|single_transformer_blocks\.\d+\.attn\.(to_qkv_mlp_proj|to_out)"
    r"|x_embedder|context_embedder|time_guidance_embed\.timestep_embedder\.linear_[12]"
    r"|(double_stream_modulation_(img|txt)|single_stream_modulation)\.linear|proj_out"
)


def denoiser_builder() -> Build:
    """Imports diffusers; the function that builds a Flux2Transformer2DModel."""
    from diffusers import Flux2Transformer2DModel

    return on_meta_device(Flux2Transformer2DModel)


_BUILDERS: Mapping[str, Callable[[], Build]] = {
    "transformer": denoiser_builder,
    "vae": vae_builder,
    TEXT: qwen3_builder,
}


class Flux2Klein(QwenTransformer):
    """The family `flux2_klein`. Satisfies `families.base.ModelFamily`."""

    traits = FamilyTraits(
        name="flux2_klein",
        text_encoders=(TEXT,),
        base_model_version="flux2_klein",
        architecture="flux-2-klein/lora",
        implementation="https://github.com/black-forest-labs/flux2",
        sampling=SamplingDefaults(steps=50, guidance=4.0),
        cache_dtype=torch.float32,  # of the latents; the text stays in bfloat16
        trains_text=False,  # no program reads adapters of the text encoder
    )
    template = TEMPLATE
    builders = _BUILDERS
    targets = _TARGETS
    blocks = ("transformer_blocks", "single_transformer_blocks")
    feed_forwards = ("ff", "ff_context")

    def text_description(self) -> list[Any]:
        return [TAPS, LENGTH, TEMPLATE.before, TEMPLATE.after]

    def text_layers(self) -> int:
        return LAYERS

    def load_models(self, *, trained: Collection[str], dtype: torch.dtype, to: Destination) -> dict[str, nn.Module]:
        if not isinstance(to, torch.device):
            return super().load_models(trained=trained, dtype=dtype, to=partial(_JoiningStore, store=to))
        models = super().load_models(trained=trained, dtype=dtype, to=to)
        join_projections(models["denoiser"])
        return models

    # -- inputs ------------------------------------------------------------------------------------

    def language_config(self) -> Mapping[str, Any]:
        config: Mapping[str, Any] = self.weights.configs[TEXT]
        return config

    def encoded(self, encoder: Any, ids: Tensor) -> Tensor:
        return encode(encoder, ids, self._tokenizer.pad_token_id, TAPS)

    def tokenize(self, caption: str) -> dict[str, Tensor]:
        return {"token_ids": token_ids(self._tokenizer, caption, tokens=self.caption_tokens)}

    def encode_image(self, encoders: Models, pixels: Tensor, *, tile: int = 0) -> dict[str, Tensor]:
        return {"latents": encode_with_vae(encoders["vae"], pixels, tile)}

    def collate(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    # -- the step ----------------------------------------------------------------------------------

    def conditioning(self, models: Models, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:  # noqa: ARG002
        return {EMBEDS: inputs[EMBEDS]}

    def forward_work(self, shapes: Mapping[str, Shapes], inputs: Inputs) -> ForwardWork:
        rows, columns = inputs["latents"].shape[1:]
        return denoiser_work(shapes["denoiser"], picture=rows * columns, text=len(inputs[EMBEDS]))

    def noise_process(self) -> FlowMatching:
        return FlowMatching(LogitNormal(), training_shift=FixedShift(_TRAINING_SHIFT), sampling_shift=ShiftBySteps())

    def predict(
        self,
        models: Models,
        noisy_latents: Tensor,
        timesteps: Tensor,
        conditioning: Mapping[str, Tensor],
    ) -> Tensor:
        denoiser: Any = models["denoiser"]
        precision = denoiser.single_transformer_blocks[0].attn.norm_q.weight.dtype  # never a target
        embeds = conditioning[EMBEDS]
        rows, columns = noisy_latents.shape[2:]
        device = noisy_latents.device
        (prediction,) = denoiser(
            hidden_states=packed(noisy_latents, 1).to(precision),
            encoder_hidden_states=embeds.to(precision),
            timestep=timesteps.to(precision),
            img_ids=pad(grid_positions(rows, columns, device), (0, 1)),
            txt_ids=text_positions(embeds.shape[1], device),
            return_dict=False,
        )
        return unpacked(prediction, rows, columns, 1)

    def decode_latents(self, encoders: Models, latents: Tensor, *, free_memory: int | None = None) -> Tensor:
        return decode_with_vae(encoders["vae"], latents, free_memory)


def text_positions(count: int, device: torch.device) -> Tensor:
    """(count, 4): the place of each token of a text on the last of four axes; pictures have the second and third."""
    return pad(torch.arange(float(count), device=device)[:, None], (3, 0))


def join_projections(denoiser: Any) -> None:
    """Makes one layer of queries, keys and values, as the published checkpoint has it, for the picture and for the text
    of each two-stream block. Diffusers' own processor computes with it."""
    for block in denoiser.transformer_blocks:
        attention = block.attn
        for name, parts in _JOINED.items():
            weight = torch.cat([attention.get_parameter(f"{part}.weight") for part in parts])
            outputs, inputs = weight.shape
            joined = nn.Linear(inputs, outputs, bias=False, device="meta")
            joined.weight = nn.Parameter(weight, requires_grad=False)
            for part in parts:
                delattr(attention, part)
            setattr(attention, name, joined.eval())
        attention.fused_projections = True


class _JoiningStore:
    """A store of a denoiser with joined projections, which takes the tensors of one without."""

    def __init__(self, denoiser: nn.Module, store: StoreOf) -> None:
        join_projections(denoiser)
        self._store = store(denoiser)
        self._waiting: dict[str, Tensor] = {}

    def put(self, name: str, tensor: Tensor) -> None:
        attention, _, own = name.removesuffix(".weight").rpartition(".")
        joined = next((joined for joined, parts in _JOINED.items() if own in parts), None)
        if joined is None or not attention.startswith("transformer_blocks."):
            self._store.put(name, tensor)
            return
        self._waiting[name] = tensor
        names = [f"{attention}.{part}.weight" for part in _JOINED[joined]]
        if self._waiting.keys() >= set(names):
            self._store.put(f"{attention}.{joined}.weight", torch.cat([self._waiting.pop(part) for part in names]))

    def finish(self) -> None:
        self._store.finish()
