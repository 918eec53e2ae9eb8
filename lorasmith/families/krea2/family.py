"""Krea 2: a transformer over text and picture, the text encoder Qwen3-VL, the VAE of Qwen-Image, flow matching.

The libraries' model classes are imported when a component is loaded, not before. Nothing here goes online. Knows no
adapter, no optimizer and no run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from lorasmith.data.types import Example, Inputs
from lorasmith.diffusion.densities import LogitNormal
from lorasmith.diffusion.flow import FlowMatching, ShiftByTokens
from lorasmith.diffusion.sampling import SamplingDefaults
from lorasmith.errors import ModelError
from lorasmith.families.base import FamilyTraits, Models
from lorasmith.families.checkpointing import Checkpointing, set_unet_checkpointing
from lorasmith.families.identity import component_sha256
from lorasmith.families.krea2 import text as qwen
from lorasmith.families.krea2.layout import FLOAT32, PATCH, taps, vae_factor
from lorasmith.families.krea2.work import Sizes, denoiser_work
from lorasmith.families.loading import Build, load_component, on_meta_device
from lorasmith.families.qwen_vae import decode_with_vae, encode_with_vae, vae_builder
from lorasmith.families.stored_tensors import DtypeOf
from lorasmith.families.unet_work import ForwardWork, Shapes
from lorasmith.families.weights import BaseWeights, TextSettings, check_plain_text
from lorasmith.targets import TargetModule

TEXT = "text_encoder"
EMBEDS, MASK = "prompt_embeds", "prompt_mask"
TEXT_STEP = 64  # tokens, of which padded texts are multiples
_TARGETS = re.compile(
    r"(transformer_blocks|text_fusion\.(layerwise|refiner)_blocks)\.\d+\.(attn\.to_(q|k|v|gate|out\.0)|ff\.(gate|up|down))"
    r"|img_in|time_embed\.linear_[12]|time_mod_proj|text_fusion\.projector|txt_in\.linear_[12]|final_layer\.linear"
)


def denoiser_builder() -> Build:
    """Imports diffusers; the function that builds a Krea2Transformer2DModel."""
    from diffusers import Krea2Transformer2DModel

    return on_meta_device(Krea2Transformer2DModel)


_BUILDERS: Mapping[str, Callable[[], Build]] = {
    "transformer": denoiser_builder,
    "vae": vae_builder,
    TEXT: qwen.text_builder,
}


class Krea2:
    """The family `krea2`. Satisfies `families.base.ModelFamily`.

    The text encoder is loaded as it is published, in bfloat16: float32 would take 16 GB to give the same captions.
    """

    traits = FamilyTraits(
        name="krea2",
        text_encoders=(TEXT,),
        base_model_version="krea2",
        architecture="krea-2/lora",
        implementation="https://github.com/krea-ai/krea-2",
        sampling=SamplingDefaults(steps=28, guidance=4.0),
        cache_dtype=torch.float32,  # of the latents; the text stays in bfloat16
        trains_text=False,  # no program reads adapters of the text encoder
    )

    def __init__(self, weights: BaseWeights, text: TextSettings) -> None:
        check_plain_text(text)
        self.weights = weights
        self.text = text
        self.caption_tokens = qwen.caption_tokens(text)

    # -- loading -----------------------------------------------------------------------------------

    def encoder_hashes(self) -> dict[str, str]:
        hashes = {component: component_sha256(self.weights, component) for component in ("vae", TEXT)}
        described = json.dumps([hashes[TEXT], taps(self.weights.configs), qwen.BEFORE, qwen.AFTER])
        return hashes | {TEXT: hashlib.sha256(described.encode()).hexdigest()}

    def load_encoders(self, device: torch.device, *, only: Collection[str] = ()) -> dict[str, nn.Module]:
        dtypes = {"vae": torch.float32, TEXT: torch.bfloat16}
        return {name: self._load(name, dtypes[name], device) for name in only or dtypes}

    def load_models(
        self, *, trained: Collection[str], dtype: torch.dtype, device: torch.device
    ) -> dict[str, nn.Module]:
        assert not trained, "the text encoder is never trained"

        def dtype_of(name: str) -> torch.dtype:
            return dtype if FLOAT32.isdisjoint(name.split(".")) else torch.float32

        return {"denoiser": self._load("transformer", dtype_of, device)}

    def _load(self, component: str, dtype: torch.dtype | DtypeOf, device: torch.device) -> nn.Module:
        return load_component(
            self.weights,
            component,
            _BUILDERS[component],
            dtype=dtype,
            device=device,
            allows_extra=False,
        )

    def target_modules(self, models: Models) -> list[TargetModule]:
        denoiser = models["denoiser"]
        paths = [path for path, _ in denoiser.named_modules() if _TARGETS.fullmatch(path)]
        return [TargetModule.inside(denoiser, path, name=f"denoiser.{path}", component="denoiser") for path in paths]

    def repeated_blocks(self, models: Models) -> list[nn.Module]:
        return list(models["denoiser"].get_submodule("transformer_blocks").children())

    def set_checkpointing(self, models: Models, level: Checkpointing) -> None:
        set_unet_checkpointing(models["denoiser"], level)  # it has the methods and names of a UNet

    # -- inputs ------------------------------------------------------------------------------------

    @cached_property
    def _tokenizer(self) -> Any:
        folder = self.weights.path / self.weights.names.tokenizers[TEXT]
        tokenizer = qwen.tokenizer_from(folder, source=self.weights.path)
        if len(tokenizer) > self.weights.configs[TEXT]["text_config"]["vocab_size"]:
            raise ModelError("model_tokenizer", path=str(self.weights.path))
        return tokenizer

    def encode_image(self, encoders: Models, pixels: Tensor, *, tile: int = 0) -> dict[str, Tensor]:
        return {"latents": encode_with_vae(encoders["vae"], pixels, tile)}

    def encode_caption(self, encoders: Models, caption: str) -> dict[str, Tensor]:
        if TEXT not in encoders:
            return {}
        ids = self.tokenize(caption)["token_ids"]
        return {EMBEDS: qwen.encode(encoders[TEXT], ids, taps(self.weights.configs))}

    def tokenize(self, caption: str) -> dict[str, Tensor]:
        return {"token_ids": qwen.token_ids(self._tokenizer, caption, tokens=self.caption_tokens)}

    def first_unseen_tag(self, caption: str) -> str:
        return qwen.first_unseen_tag(lambda: self._tokenizer, caption, tokens=self.caption_tokens)

    def example_inputs(self, example: Example) -> dict[str, Tensor]:  # noqa: ARG002  of the protocol
        return {}

    def collate(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Texts are padded behind their end, with a mask of what is text: to few lengths, since each is a shape of its
        own to record a step for."""
        lengths = [len(row[EMBEDS]) for row in rows]
        longest = -(-max(lengths) // TEXT_STEP) * TEXT_STEP
        batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0] if name != EMBEDS}
        batch[EMBEDS] = torch.stack([_padded(row[EMBEDS], longest) for row in rows])
        batch[MASK] = torch.arange(longest) < torch.tensor(lengths)[:, None]
        return batch

    # -- the step ----------------------------------------------------------------------------------

    def conditioning(self, models: Models, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:  # noqa: ARG002
        return {name: inputs[name] for name in (EMBEDS, MASK)}

    def forward_work(self, shapes: Mapping[str, Shapes], inputs: Inputs) -> ForwardWork:
        rows, columns = (side // PATCH for side in inputs["latents"].shape[1:])
        text, taps, width = inputs[EMBEDS].shape
        return denoiser_work(shapes["denoiser"], Sizes(rows * columns, text, taps, width))

    def noise_process(self) -> FlowMatching:
        """As pictures are sampled: the larger they are, the more steps lie in strong noise."""
        settings = self.weights.configs["scheduler"]
        least, greatest = settings.get("base_shift", 0.5), settings.get("max_shift", 1.15)
        shift = ShiftByTokens(
            fewest=settings.get("base_image_seq_len", 256),
            most=settings.get("max_image_seq_len", 6400),
            least=least,
            greatest=greatest,
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
        precision = denoiser.transformer_blocks[0].scale_shift_table.dtype  # never a target
        embeds = conditioning[EMBEDS]
        rows, columns = (side // PATCH for side in noisy_latents.shape[2:])
        (prediction,) = denoiser(
            hidden_states=packed(noisy_latents).to(precision),
            encoder_hidden_states=embeds.to(precision),
            timestep=timesteps.to(precision),
            position_ids=positions(embeds.shape[1], rows, columns, noisy_latents.device),
            encoder_attention_mask=conditioning[MASK],
            return_dict=False,
        )
        return unpacked(prediction, rows, columns)

    def decode_latents(self, encoders: Models, latents: Tensor, *, free_memory: int | None = None) -> Tensor:
        return decode_with_vae(encoders["vae"], latents, vae_factor(self.weights.configs), free_memory)


def packed(latents: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, tokens, C * 4): patches row by row, each of them by channel, row and column."""
    patches = latents.unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpacked(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """The way back from `packed`."""
    patches = tokens.unflatten(2, (-1, PATCH, PATCH)).unflatten(1, (rows, columns))
    return patches.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def positions(text_tokens: int, rows: int, columns: int, device: torch.device) -> Tensor:
    """(text and picture, 3): all text at the origin, a picture's tokens at (0, row, column)."""
    grid = torch.cartesian_prod(
        torch.arange(1.0, device=device),
        torch.arange(float(rows), device=device),
        torch.arange(float(columns), device=device),
    )
    return torch.cat([torch.zeros(text_tokens, 3, device=device), grid])


def _padded(embeds: Tensor, length: int) -> Tensor:
    return pad(embeds, (0, 0, 0, 0, 0, length - len(embeds)))
