"""The places of Stable Diffusion 2.x's tensors, and the configs that follow from their shapes.

A checkpoint has either of two layouts: a diffusers folder, or the original single file, whose UNet and VAE have
latent-diffusion's names and whose text encoder has OpenCLIP's. The canonical names are those of published diffusers
folders.
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

TEXT_PREFIX = "cond_stage_model.model."
"""The beginning of the text encoder's names in a single file."""
TEXT_LAYERS = 23
"""OpenCLIP's text encoder has 24 layers: the UNet was trained on the output of the last but one, where folders end."""

_CONFIGS = Path(__file__).parent / "configs"


def usual_config(component: str) -> dict[str, Any]:
    """The published config of "unet", "vae", "text_encoder" or "scheduler": a new copy."""
    content: dict[str, Any] = json.loads((_CONFIGS / f"{component}.json").read_text(encoding="utf-8"))
    return content


def from_ldm(component: str, names: Iterable[str]) -> dict[str, Place]:
    """Canonical name -> place in the single file, of all tensors of a component. Others are left out."""
    if component == "text_encoder":
        found = text_places(TEXT_PREFIX, names, layers=TEXT_LAYERS)
        found.pop("text_projection.weight", None)  # of the pooled output, which this UNet does not see
        return found
    return whole(lambda _, stored: unet_names(stored) if component == "unet" else vae_names(stored))(component, names)


def from_diffusers(component: str, names: Iterable[str]) -> dict[str, str]:
    """Canonical name -> name in the folder's file."""
    if component == "unet":
        return {name: name for name in names}
    return vae_folder_names(names) if component == "vae" else clip_names(names)


def deduce_configs(shapes: Mapping[str, Shapes]) -> dict[str, Any]:
    """Configs of "unet", "vae", "text_encoder" from the shapes under canonical names, by component.

    Raises:
        UnusualShapesError: it cannot be that architecture, however wide.
    """
    return {
        "unet": unet_config(shapes["unet"], usual_config("unet")),
        "vae": vae_config(shapes["vae"], usual_config("vae")),
        "text_encoder": clip_config(shapes["text_encoder"], usual_config("text_encoder")),
    }


def layer_names() -> str:
    """The layers that an adapter may change, with their names in exported files: see `exporting.name_table`."""
    return Path(__file__).with_name("layer_names.tsv").read_text(encoding="ascii")


NAMES = ComponentNames(
    weight_stems={"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"},
    config_files={
        "unet": "unet/config.json",
        "vae": "vae/config.json",
        "text_encoder": "text_encoder/config.json",
        "scheduler": "scheduler/scheduler_config.json",
    },
    tokenizers={"text_encoder": "tokenizer"},
    from_single_file=from_ldm,
    from_folder=whole(from_diffusers),
)
