"""The shapes of the made models, and the names their tensors have in the original (LDM) single-file layout.

Knows nothing of what is in the tensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ModelSize = Literal["nano", "miniature", "narrow", "sd15", "sd2", "sdxl"]
"""The published size goes by the family's name."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Widths and depths; everything else is as Stable Diffusion 1.x has it."""

    unet_blocks: tuple[int, ...]
    vae_blocks: tuple[int, ...]
    vae_groups: int
    text_width: int
    text_layers: int
    latent_side: int  # the model's own resolution in latents: 1/8 of its pixels
    has_clip_vocabulary: bool  # CLIP's 49,408 tokens, else a few hundred of its own
    layers_per_block: int = 2

    @property
    def resolution(self) -> int:
        return self.latent_side * 8


LAYOUTS: dict[ModelSize, Layout] = {
    # as little as a run can be made with: loads in a fraction of the miniature's time, knows every kind of layer
    "nano": Layout((32, 32), (8, 8, 8, 8), 8, 64, 1, 8, False, layers_per_block=1),
    # three levels, so that Stable Diffusion 1.x has every name too; a training step takes some 30 ms
    "miniature": Layout((32, 64, 64), (8, 8, 16, 16), 8, 64, 2, 8, False),
    # every layer of the real thing, only narrow: all 192 + 72 modules, recognisable without its configs
    "narrow": Layout((32, 64, 128, 128), (32, 32, 32, 32), 32, 64, 12, 16, True),
    "sd15": Layout((320, 640, 1280, 1280), (128, 256, 512, 512), 32, 768, 12, 64, True),
}


def unet_config(layout: Layout) -> dict[str, Any]:
    levels = len(layout.unet_blocks)
    return {
        "sample_size": layout.latent_side,
        "in_channels": 4,
        "out_channels": 4,
        "center_input_sample": False,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "down_block_types": ["CrossAttnDownBlock2D"] * (levels - 1) + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * (levels - 1),
        "block_out_channels": list(layout.unet_blocks),
        "layers_per_block": layout.layers_per_block,
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
        "act_fn": "silu",
        "norm_num_groups": 32,
        "norm_eps": 1e-5,
        "cross_attention_dim": layout.text_width,
        "attention_head_dim": 8,  # the number of heads: the name is an old mistake of the format
    }


def vae_config(layout: Layout) -> dict[str, Any]:
    levels = len(layout.vae_blocks)
    return {
        "sample_size": layout.resolution,
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": list(layout.vae_blocks),
        "layers_per_block": layout.layers_per_block,
        "act_fn": "silu",
        "latent_channels": 4,
        "norm_num_groups": layout.vae_groups,
        "scaling_factor": 0.18215,
    }


def text_config(layout: Layout, vocabulary: int) -> dict[str, Any]:
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "attention_dropout": 0.0,
        "bos_token_id": vocabulary - 2,
        "dropout": 0.0,
        "eos_token_id": vocabulary - 1,
        "hidden_act": "quick_gelu",
        "hidden_size": layout.text_width,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": layout.text_width * 4,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 77,
        "num_attention_heads": layout.text_width // 64,
        "num_hidden_layers": layout.text_layers,
        "pad_token_id": vocabulary - 1,
        "projection_dim": layout.text_width,
        "vocab_size": vocabulary,
    }


def scheduler_config(prediction: str, zero_terminal_snr: bool) -> dict[str, Any]:
    config: dict[str, Any] = {
        "_class_name": "DDIMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "prediction_type": prediction,
    }
    if zero_terminal_snr:
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return config


def model_index(scheduler: str) -> dict[str, Any]:
    """model_index.json; `scheduler` is its class name."""
    return {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        **_components(scheduler),
    }


def sdxl_model_index(scheduler: str) -> dict[str, Any]:
    """The same of Stable Diffusion XL."""
    return {
        "_class_name": "StableDiffusionXLPipeline",
        "feature_extractor": [None, None],
        "force_zeros_for_empty_prompt": True,
        "image_encoder": [None, None],
        **_components(scheduler),
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    }


def _components(scheduler: str) -> dict[str, Any]:
    return {
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def write_json(path: Path, value: object) -> None:
    """As the libraries write their configs."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def text_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """CLIP's text model under the names of published folders, which newer libraries have changed in memory."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "text_model.embeddings.token_embedding.weight": (config["vocab_size"], width),
        "text_model.embeddings.position_embedding.weight": (77, width),
    }
    for layer in range(config["num_hidden_layers"]):
        stem = f"text_model.encoder.layers.{layer}"
        linear = {f"self_attn.{part}_proj": (width, width) for part in "qkv"} | {"self_attn.out_proj": (width, width)}
        linear |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
        for name, shape in linear.items():
            shapes[f"{stem}.{name}.weight"] = shape
            shapes[f"{stem}.{name}.bias"] = shape[:1]
        for norm in ("layer_norm1", "layer_norm2"):
            shapes[f"{stem}.{norm}.weight"] = shapes[f"{stem}.{norm}.bias"] = (width,)
    shapes["text_model.final_layer_norm.weight"] = shapes["text_model.final_layer_norm.bias"] = (width,)
    if config["architectures"] == ["CLIPTextModelWithProjection"]:
        shapes["text_projection.weight"] = (config["projection_dim"], width)
    return shapes


# -- the original layout ---------------------------------------------------------------------------

_UNET_FIXED = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_UNET_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_VAE_BLOCK = re.compile(r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)")
_VAE_MID = re.compile(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def ldm_unet_name(name: str, config: dict[str, Any]) -> str:
    """ "down_blocks.0.attentions.1.proj_in.weight" -> "input_blocks.2.1.proj_in.weight"."""
    for ours, theirs in _UNET_FIXED.items():
        if name.startswith(ours + "."):
            rest = name.removeprefix(ours + ".")
            return f"{theirs}.{_resnet_part(rest) if '.resnets.' in name else rest}"
    match = _UNET_BLOCK.fullmatch(name)
    assert match, name
    side, level, kind, number, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    per_level = config["layers_per_block"] + 1
    if kind == "downsamplers":
        return f"input_blocks.{(level + 1) * per_level}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        has_attention = config["up_block_types"][level].startswith("CrossAttn")
        return f"output_blocks.{(level + 1) * per_level - 1}.{2 if has_attention else 1}.{rest}"
    stem = f"input_blocks.{1 + level * per_level + number}" if side == "down" else ""
    stem = stem or f"output_blocks.{level * per_level + number}"
    return f"{stem}.1.{rest}" if kind == "attentions" else f"{stem}.0.{_resnet_part(rest)}"


def ldm_vae_name(name: str, config: dict[str, Any]) -> str:
    """ "decoder.up_blocks.0.resnets.0.conv1.weight" -> "decoder.up.3.block.0.conv1.weight"."""
    if match := _VAE_MID.fullmatch(name):
        half, kind, number, rest = match[1], match[2], int(match[3]), match[4]
        if kind == "resnets":
            return f"{half}.mid.block_{number + 1}.{rest}"
        part, leaf = rest.rsplit(".", 1)
        return f"{half}.mid.attn_1.{_VAE_ATTENTION[part]}.{leaf}"
    if match := _VAE_BLOCK.fullmatch(name):
        half, side, kind, block, rest = match[1], match[2], match[4], match[5], match[6]
        level = int(match[3])
        if side == "up":
            level = len(config["block_out_channels"]) - 1 - level
        if kind != "resnets":
            return f"{half}.{side}.{level}.{side}sample.{rest}"
        return f"{half}.{side}.{level}.block.{block}.{rest.replace('conv_shortcut', 'nin_shortcut')}"
    return name.replace("conv_norm_out", "norm_out")


def _resnet_part(rest: str) -> str:
    part, leaf = rest.rsplit(".", 1)
    return f"{_UNET_RESNET[part]}.{leaf}"
