"""The places of Stable Diffusion XL's tensors, and the configs that follow from their shapes.

A checkpoint has either of two layouts: a diffusers folder, or the original single file ("SGM"), whose UNet and VAE have
latent-diffusion's names, and whose second text encoder has OpenCLIP's. The canonical names are those of published
diffusers folders.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lorasmith.families.ldm_configs import clip_config, unet_config, vae_config
from lorasmith.families.ldm_names import clip_names, unet_names, vae_folder_names, vae_names
from lorasmith.families.open_clip import text_places
from lorasmith.families.places import Place, whole
from lorasmith.families.weights import ComponentNames, Shapes

TEXT_PREFIX = "conditioner.embedders.0.transformer."
TEXT_2_PREFIX = "conditioner.embedders.1.model."
"""The beginnings of the text encoders' names in a single file."""

_CONFIGS = Path(__file__).parent / "configs"


def usual_config(component: str) -> dict[str, Any]:
    """The published config of "unet", "vae", "text_encoder", "text_encoder_2" or "scheduler": a new copy."""
    content: dict[str, Any] = json.loads((_CONFIGS / f"{component}.json").read_text(encoding="utf-8"))
    return content


def from_sgm(component: str, names: Iterable[str]) -> dict[str, Place]:
    """Canonical name -> place in the single file, of all tensors of a component. Others are left out."""
    return text_places(TEXT_2_PREFIX, names) if component == "text_encoder_2" else _whole(component, names)


def from_diffusers(component: str, names: Iterable[str]) -> dict[str, str]:
    """Canonical name -> name in the folder's file."""
    if component == "unet":
        return {name: name for name in names}
    if component == "vae":
        return vae_folder_names(names)
    return clip_names(names, has_projection=component == "text_encoder_2")


def deduce_configs(shapes: Mapping[str, Shapes]) -> dict[str, Any]:
    """Configs of all components from the shapes under canonical names, by component.

    Where shapes are not enough, it is as in Stable Diffusion XL: 64 channels per head, and 256 numbers for each of the
    six sizes.

    Raises:
        UnusualShapesError: it cannot be that architecture, however wide.
    """
    return {
        "unet": unet_config(shapes["unet"], usual_config("unet")),
        "vae": vae_config(shapes["vae"], usual_config("vae")),
        "text_encoder": clip_config(shapes["text_encoder"], usual_config("text_encoder")),
        "text_encoder_2": clip_config(shapes["text_encoder_2"], usual_config("text_encoder_2")),
    }


def layer_names() -> str:
    """The layers that an adapter may change, with their names in exported files: see `exporting.name_table`."""
    return Path(__file__).with_name("layer_names.tsv").read_text(encoding="ascii")


def _names_of_whole(component: str, names: Iterable[str]) -> dict[str, str]:
    if component == "unet":
        return unet_names(names)
    return vae_names(names) if component == "vae" else clip_names(names, TEXT_PREFIX)


_whole = whole(_names_of_whole)

NAMES = ComponentNames(
    weight_stems={
        "unet": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
        "text_encoder_2": "model",
    },
    config_files={
        "unet": "unet/config.json",
        "vae": "vae/config.json",
        "text_encoder": "text_encoder/config.json",
        "text_encoder_2": "text_encoder_2/config.json",
        "scheduler": "scheduler/scheduler_config.json",
    },
    tokenizers={"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"},
    from_single_file=from_sgm,
    from_folder=whole(from_diffusers),
)
