"""The places of FLUX.2 klein's tensors in a diffusers folder, and the configs that training depends on.

The canonical names are those of published diffusers folders; those of the text encoder are Qwen3's without its head.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lorasmith.families.places import whole
from lorasmith.families.weights import ComponentNames

TAPS = (9, 18, 27)
"""The layers of the text encoder that the denoiser takes, side by side."""
LENGTH = 512
"""Tokens of a text, padding included: the denoiser attends to the padding, which it was trained with."""
PATCH = 2
"""The side of a token, in elements of the VAE's own latents."""
_LANGUAGE = "model."
_COUNTER = "bn.num_batches_tracked"  # of the VAE's own training


def vae_factor(configs: Mapping[str, Any]) -> int:
    """Pixels of a side for each element of the VAE's own latents, before patches are made of them."""
    return int(2 ** (len(configs["vae"]["block_out_channels"]) - 1))


def from_diffusers(component: str, names: Iterable[str]) -> dict[str, str]:
    """Canonical name -> name in the folder's file."""
    if component == "text_encoder":
        return {name.removeprefix(_LANGUAGE): name for name in names if name.startswith(_LANGUAGE)}
    return {name: name for name in names if name != _COUNTER}


def layer_names() -> str:
    """The layers that an adapter may change, with their names in exported files: see `exporting.name_table`."""
    return Path(__file__).with_name("layer_names.tsv").read_text(encoding="ascii")


NAMES = ComponentNames(
    weight_stems={
        "transformer": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
    },
    config_files={
        "transformer": "transformer/config.json",
        "vae": "vae/config.json",
        "text_encoder": "text_encoder/config.json",
        "scheduler": "scheduler/scheduler_config.json",
        "pipeline": "model_index.json",
    },
    tokenizers={"text_encoder": "tokenizer"},
    from_single_file=lambda component, names: {},  # noqa: ARG005  none is recognized
    from_folder=whole(from_diffusers),
)
