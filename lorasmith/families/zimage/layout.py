"""The places of Z-Image's tensors in a diffusers folder, and the configs that training depends on.

The canonical names of the denoiser and the VAE are those of published diffusers folders; those of the text encoder are
Qwen3's without the head that predicts words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lorasmith.families.places import whole
from lorasmith.families.weights import ComponentNames

PATCH = 2
"""The side of a token, in elements of the latents."""
TOKENS = 32
"""A picture and a caption are filled up to a multiple of this many tokens with learned tokens that are attended to."""
_LANGUAGE, _HEAD = "model.", "lm_head."


def vae_factor(configs: Mapping[str, Any]) -> int:
    """Pixels of a side for each element of the latents."""
    return int(2 ** (len(configs["vae"]["block_out_channels"]) - 1))


def from_diffusers(component: str, names: Iterable[str]) -> dict[str, str]:
    """Canonical name -> name in the folder's file."""
    if component != "text_encoder":
        return {name: name for name in names}
    return {name.removeprefix(_LANGUAGE): name for name in names if not name.startswith(_HEAD)}


def layer_names() -> str:
    """The layers that an adapter may change, with their names in exported files: see `exporting.name_table`."""
    return Path(__file__).with_name("layer_names.tsv").read_text(encoding="ascii")


def native_names() -> str:
    """The places of those layers in the original model that have other names there: see `exporting.formats`."""
    return Path(__file__).with_name("native_names.tsv").read_text(encoding="ascii")


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
