"""The places of Stable Diffusion XL's tensors, and the configs that follow from their shapes.

A checkpoint has either of two layouts: a diffusers folder, or the original single file ("SGM", whose UNet and VAE have
latent-diffusion's names). The canonical names are those of published diffusers folders.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_CONFIGS = Path(__file__).parent / "configs"


def usual_config(component: str) -> dict[str, Any]:
    """The published config of "unet", "vae", "text_encoder", "text_encoder_2" or "scheduler": a new copy."""
    content: dict[str, Any] = json.loads((_CONFIGS / f"{component}.json").read_text(encoding="utf-8"))
    return content
