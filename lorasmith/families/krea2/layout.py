"""The places of Krea 2's tensors in a diffusers folder, and the configs that training depends on.

The canonical names of the denoiser and the VAE are those of published diffusers folders; those of the text encoder are
Qwen3-VL's without the parts that see pictures.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lorasmith.families.places import whole
from lorasmith.families.weights import ComponentNames

TAPS = (2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35)
"""The layers of the text encoder that the denoiser takes, where `model_index.json` names none."""
PATCH = 2
"""The side of a token, in elements of the latents."""
FLOAT32 = frozenset({"norm", "norm1", "norm2", "norm_q", "norm_k"})
"""Parts of the denoiser's names whose tensors stay float32 whatever the precision, as diffusers loads them: norms."""
_LANGUAGE = re.compile(r"(model\.)?language_model\.")


def taps(configs: Mapping[str, Any]) -> tuple[int, ...]:
    """The layers of the text encoder that the denoiser takes."""
    return tuple(configs["pipeline"].get("text_encoder_select_layers") or TAPS)


def vae_factor(configs: Mapping[str, Any]) -> int:
    """Pixels of a side for each element of the latents."""
    return int(2 ** len(configs["vae"]["temperal_downsample"]))


def from_diffusers(component: str, names: Iterable[str]) -> dict[str, str]:
    """Canonical name -> name in the folder's file."""
    if component != "text_encoder":
        return {name: name for name in names}
    places = {name: _LANGUAGE.match(name) for name in names}
    return {name[found.end() :]: name for name, found in places.items() if found}


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
