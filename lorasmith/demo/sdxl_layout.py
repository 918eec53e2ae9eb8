"""The configs of made models of Stable Diffusion XL: its blocks, its two text encoders, its sizes as conditions.

Knows nothing of what is in the tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lorasmith.demo.layouts import Layout, ModelSize, text_config, unet_config, vae_config


@dataclass(frozen=True, slots=True)
class SdxlLayout:
    """Widths and depths; everything else is as Stable Diffusion XL has it."""

    base: Layout  # UNet, VAE and the first text encoder
    depths: tuple[int, ...]  # transformer blocks of an attention, by level; the first level has no attention
    second_width: int
    second_layers: int
    pooled: int  # width of the second text encoder's projection
    numbers_width: int  # of the embedding of each of the six sizes


_LAYOUTS: dict[ModelSize, SdxlLayout] = {
    # as little as a run can be made with; two layers in each level, since the names in LoRA files count on that
    "nano": SdxlLayout(Layout((32, 64, 64), (8, 8, 8, 8), 8, 64, 2, 8, False), (1, 1, 2), 128, 2, 64, 32),
    # every layer of the real thing, only narrow: all 722 + 264 modules
    "miniature": SdxlLayout(Layout((32, 64, 64), (8, 8, 16, 16), 8, 64, 12, 8, False), (1, 2, 10), 128, 32, 64, 32),
    # the same with CLIP's vocabulary, recognisable without its configs
    "narrow": SdxlLayout(Layout((64, 64, 128), (32, 32, 32, 32), 32, 64, 12, 16, True), (1, 2, 10), 128, 32, 64, 256),
    "sdxl": SdxlLayout(
        Layout((320, 640, 1280), (128, 256, 512, 512), 32, 768, 12, 128, True), (1, 2, 10), 1280, 32, 1280, 256
    ),
}


def has_clip_vocabulary(size: ModelSize) -> bool:
    """Whether both text encoders have CLIP's 49,408 tokens."""
    return _LAYOUTS[size].base.has_clip_vocabulary


def sdxl_configs(size: ModelSize, vocabulary: int) -> dict[str, dict[str, Any]]:
    """Configs of "unet", "vae", "text_encoder" and "text_encoder_2"."""
    layout = _LAYOUTS[size]
    text = text_config(layout.base, vocabulary)
    return {
        "unet": _unet_config(layout),
        "vae": vae_config(layout.base) | {"scaling_factor": 0.13025},
        "text_encoder": text,
        "text_encoder_2": text
        | {
            "architectures": ["CLIPTextModelWithProjection"],
            "hidden_act": "gelu",
            "hidden_size": layout.second_width,
            "intermediate_size": 4 * layout.second_width,
            "num_attention_heads": layout.second_width // 64,
            "num_hidden_layers": layout.second_layers,
            "projection_dim": layout.pooled,
        },
    }


def _unet_config(layout: SdxlLayout) -> dict[str, Any]:
    attended = len(layout.base.unet_blocks) - 1
    return unet_config(layout.base) | {
        "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * attended,
        "up_block_types": ["CrossAttnUpBlock2D"] * attended + ["UpBlock2D"],
        "transformer_layers_per_block": list(layout.depths),
        "attention_head_dim": [max(width // 64, 1) for width in layout.base.unet_blocks],
        "use_linear_projection": True,
        "cross_attention_dim": layout.base.text_width + layout.second_width,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": layout.numbers_width,
        "projection_class_embeddings_input_dim": layout.pooled + 6 * layout.numbers_width,
    }
