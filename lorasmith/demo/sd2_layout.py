"""The configs of made models of Stable Diffusion 2.x: OpenCLIP's text encoder, linear projections, heads by width.

Knows nothing of what is in the tensors.
"""

from __future__ import annotations

from typing import Any

from lorasmith.demo.layouts import Layout, ModelSize, text_config, unet_config, vae_config

_LAYOUTS: dict[ModelSize, Layout] = {
    # as little as a run can be made with
    "nano": Layout((32, 64), (8, 8, 8, 8), 8, 64, 2, 8, False, 1),
    "miniature": Layout((32, 64, 64), (8, 8, 16, 16), 8, 64, 2, 8, False),
    # every layer of the real thing, only narrow: all 192 + 138 modules, recognisable without its configs
    "narrow": Layout((64, 64, 128, 128), (32, 32, 32, 32), 32, 64, 23, 16, True),
    "sd2": Layout((320, 640, 1280, 1280), (128, 256, 512, 512), 32, 1024, 23, 64, True),
}


def has_clip_vocabulary(size: ModelSize) -> bool:
    """Whether the text encoder has CLIP's 49,408 tokens."""
    return _LAYOUTS[size].has_clip_vocabulary


def sd2_configs(size: ModelSize, vocabulary: int) -> dict[str, dict[str, Any]]:
    """Configs of "unet", "vae" and "text_encoder"."""
    layout = _LAYOUTS[size]
    unet = unet_config(layout) | {
        "attention_head_dim": [max(width // 64, 1) for width in layout.unet_blocks],
        "use_linear_projection": True,
    }
    return {
        "unet": unet,
        "vae": vae_config(layout),
        "text_encoder": text_config(layout, vocabulary) | {"hidden_act": "gelu"},
    }
