"""The places of Anima's tensors in a diffusers folder, and the configs that training depends on.

The canonical names are those of diffusers' classes and, for the text encoder, of Qwen3 without its output layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lorasmith.families.places import whole
from lorasmith.families.weights import ComponentNames

PATCH = 2
"""The side of a token, in elements of the latents."""
MOST = 512
"""Tokens of a caption, of Qwen3 and of T5 with its end, that the pipeline takes; the denoiser's text is as long."""
_LANGUAGE = re.compile(r"(model\.)?((layers|embed_tokens|norm)\..*)")


def vae_factor(configs: Mapping[str, Any]) -> int:
    """Pixels of a side for each element of the latents."""
    return int(2 ** len(configs["vae"]["temperal_downsample"]))


def from_diffusers(component: str, names: Iterable[str]) -> dict[str, str]:
    """Canonical name -> name in the folder's file."""
    if component != "text_encoder":
        return {name: name for name in names}
    places = {name: _LANGUAGE.fullmatch(name) for name in names}
    return {found[2]: name for name, found in places.items() if found}


def layer_names() -> str:
    """The layers that an adapter may change, with their names in exported files: see `exporting.name_table`. Those of
    52 blocks, the deepest Anima; the first has 28."""
    return Path(__file__).with_name("layer_names.tsv").read_text(encoding="ascii")


NAMES = ComponentNames(
    weight_stems={
        "transformer": "diffusion_pytorch_model",
        "text_conditioner": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
    },
    config_files={
        "transformer": "transformer/config.json",
        "text_conditioner": "text_conditioner/config.json",
        "vae": "vae/config.json",
        "text_encoder": "text_encoder/config.json",
        "scheduler": "scheduler/scheduler_config.json",
    },
    tokenizers={"text_encoder": "tokenizer", "text_conditioner": "t5_tokenizer"},
    from_single_file=lambda component, names: {},  # noqa: ARG005  none is recognized
    from_folder=whole(from_diffusers),
)
