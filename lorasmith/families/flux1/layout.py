"""The places of FLUX.1's tensors in a diffusers folder, and the configs that training depends on.

The canonical names of the denoiser and the VAE are those of published diffusers folders, those of the first text
encoder CLIP's, those of the second T5's encoder without what stands before them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from lorasmith.families.ldm_names import clip_names, vae_folder_names
from lorasmith.families.places import whole
from lorasmith.families.weights import ComponentNames

LENGTH = 512
"""Tokens of T5, its end and padding included: the denoiser attends to the padding."""
PATCH = 2
"""The side of a token, in elements of the latents."""
CLIP, T5 = "text_encoder", "text_encoder_2"
_ENCODER, _SHARED = "encoder.", "shared.weight"


def vae_factor(configs: Mapping[str, Any]) -> int:
    """Pixels of a side for each element of the latents."""
    return int(2 ** (len(configs["vae"]["block_out_channels"]) - 1))


def t5_names(names: Collection[str]) -> dict[str, str]:
    """Canonical name -> name in a file of T5. The table of tokens has two names, either or both."""
    found = {name.removeprefix(_ENCODER): name for name in names if name.startswith(_ENCODER)}
    return found | ({"embed_tokens.weight": _SHARED} if _SHARED in names else {})


def from_diffusers(component: str, names: Iterable[str]) -> dict[str, str]:
    """Canonical name -> name in the folder's file."""
    if component == CLIP:
        return clip_names(names)
    if component == T5:
        return t5_names(set(names))
    return vae_folder_names(names) if component == "vae" else {name: name for name in names}


def layer_names() -> str:
    """The layers that an adapter may change, with their names in exported files: see `exporting.name_table`."""
    return Path(__file__).with_name("layer_names.tsv").read_text(encoding="ascii")


def native_names() -> str:
    """Their places in the published checkpoint: see `exporting.formats.parse_native`."""
    return Path(__file__).with_name("native_names.tsv").read_text(encoding="ascii")


NAMES = ComponentNames(
    weight_stems={
        "transformer": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        CLIP: "model",
        T5: "model",
    },
    config_files={
        "transformer": "transformer/config.json",
        "vae": "vae/config.json",
        CLIP: "text_encoder/config.json",
        T5: "text_encoder_2/config.json",
        "scheduler": "scheduler/scheduler_config.json",
        "pipeline": "model_index.json",
    },
    tokenizers={CLIP: "tokenizer", T5: "tokenizer_2"},
    from_single_file=lambda component, names: {},  # noqa: ARG005  none is recognized
    from_folder=whole(from_diffusers),
)
