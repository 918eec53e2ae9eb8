"""The places of Qwen-Image 2.1's tensors in a diffusers folder, and the numbers that training depends on.

The canonical names are those of published diffusers folders; those of the text encoder are Qwen3-VL's without the parts
that see pictures, without the head that predicts words, and without the final norm, which the denoiser does not want.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path

from lorasmith.families.places import whole
from lorasmith.families.weights import ComponentNames

FACTOR = 16
"""Pixels of a side for each element of the latents, which is a token too."""
PICTURE_CHANNELS = 4
"""The channels of a picture for the VAE: red, green, blue, and how opaque a pixel is."""
_LANGUAGE = re.compile(r"(model\.)?language_model\.")
_FINAL_NORM = "norm.weight"
GATE_UP = ".img_mlp.gate_up"
_HALVES = (".img_mlp.gate_layer", ".img_mlp.proj")


def from_diffusers(component: str, names: Iterable[str]) -> dict[str, str]:
    """Canonical name -> name in the folder's file."""
    if component != "text_encoder":
        return {name: name for name in names}
    places = {name: _LANGUAGE.match(name) for name in names}
    found = {name[place.end() :]: name for name, place in places.items() if place}
    found.pop(_FINAL_NORM, None)
    return found


def layer_names() -> str:
    """The layers that an adapter may change, with their names in exported files: see `exporting.name_table`."""
    return Path(__file__).with_name("layer_names.tsv").read_text(encoding="ascii")


def native_names() -> str:
    """The layers by their names in ComfyUI's single files, as `exporting.formats.parse_native` reads them: those of
    diffusers, but that the input layers of an MLP are one, the gate first."""
    lines = ["target\tmodule\tpart"]
    for row in csv.DictReader(layer_names().splitlines(), delimiter="\t"):
        path, part, outputs = row["target"].removeprefix("denoiser."), "", int(row["out"])
        for number, half in enumerate(_HALVES):
            if path.endswith(half):
                path, part = path.removesuffix(half) + GATE_UP, f"{number * outputs}:{(number + 1) * outputs}"
        lines.append(f"{row['target']}\t{path}\t{part}")
    return "\n".join(lines)


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
    tokenizers={"text_encoder": "processor"},
    from_single_file=lambda component, names: {},  # noqa: ARG005  none is recognized
    from_folder=whole(from_diffusers),
)
