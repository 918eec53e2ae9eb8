"""The places of Qwen-Image 2.1's tensors in diffusers folders and in single files, and the configs of the latter.

The canonical names are those of published diffusers folders; those of the text encoder are Qwen3-VL's without the parts
that see pictures, without the head that predicts words, and without the final norm, which the denoiser does not want.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lorasmith.families.ldm_configs import UnusualShapesError
from lorasmith.families.ldm_names import count_of
from lorasmith.families.places import Place
from lorasmith.families.qwen_files import find_qwen3_vl, qwen3_vl_config
from lorasmith.families.qwen_image21.vae_files import find_vae, vae_config
from lorasmith.families.relatives import Published, Relatives
from lorasmith.families.split_files import Part, SplitFiles, bare_names, folder_names
from lorasmith.families.weights import Shapes

_LANGUAGE = re.compile(r"(model\.)?language_model\.")
_FINAL_NORM = "norm.weight"
GATE_UP = ".img_mlp.gate_up"
_HALVES = (".img_mlp.gate_layer", ".img_mlp.proj")
_AXES = (16, 56, 56)  # of a head: numbers that turn with the text, the row and the column


def from_diffusers(component: str, names: Iterable[str]) -> dict[str, str]:
    """Canonical name -> name in the folder's file."""
    if component != "text_encoder":
        return {name: name for name in names}
    places = {name: _LANGUAGE.match(name) for name in names}
    found = {name[place.end() :]: name for name, place in places.items() if place}
    found.pop(_FINAL_NORM, None)
    return found


def find_denoiser(names: Iterable[str]) -> dict[str, Place]:
    """Places of the denoiser's tensors in a single file. ComfyUI has both input layers of an MLP in one tensor."""
    places = {}
    for bare, theirs in bare_names(names, "txt_in.text_norm.weight").items():
        if not bare.endswith(f"{GATE_UP}.weight"):
            places[bare] = Place(theirs)
            continue
        for number, half in enumerate(_HALVES):
            places[bare.replace(GATE_UP, half)] = Place(theirs, number, len(_HALVES))
    return places


def denoiser_config(shapes: Shapes) -> dict[str, Any]:
    """The config of a QwenImage21Transformer2DModel.

    Raises:
        UnusualShapesError: it is of no published form.
    """
    try:
        size, width = shapes["transformer_blocks.0.attn.norm_q.weight"][0], shapes["img_in.weight"][0]
        inside = shapes["transformer_blocks.0.img_mlp.proj.weight"][0]
        sizes = {
            "in_channels": shapes["img_in.weight"][1],
            "out_channels": shapes["proj_out.weight"][0],
            "num_layers": count_of(shapes, "transformer_blocks"),
            "attention_head_dim": size,
            "num_attention_heads": width // size,
            "context_in_dim": shapes["txt_in.in_layer.weight"][1],
            "mlp_ratio": inside // width,
        }
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise UnusualShapesError from error
    if size != sum(_AXES) or inside % width:
        raise UnusualShapesError
    return {**sizes, "patch_size": 1, "axes_dims_rope": list(_AXES), "eps": 1e-6, "causal_condition": True}


def find_text(names: Iterable[str]) -> dict[str, Place]:
    """Places of the text encoder's tensors in a file of its own."""
    found = find_qwen3_vl(names)
    found.pop(_FINAL_NORM, None)
    return found


def text_config(shapes: Shapes, denoiser: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the text encoder where it is the denoiser's.

    Raises:
        UnusualShapesError: it is of no published form, or that of another denoiser.
    """
    config = qwen3_vl_config(shapes)
    if config["text_config"]["hidden_size"] != denoiser["context_in_dim"]:
        raise UnusualShapesError
    return config


SPLIT = SplitFiles(
    find=find_denoiser,
    config=denoiser_config,
    parts={
        "text_encoder": Part("Qwen3-VL-8B", find_text, text_config),
        "vae": Part("VAE of Qwen-Image 2.1", find_vae, lambda shapes, _: vae_config(shapes), "vae", r"qwen.*2\.?1"),
    },
    published={
        "scheduler": {
            "base_shift": 0.5,
            "max_shift": 0.9,
            "base_image_seq_len": 256,
            "max_image_seq_len": 8192,
            "shift_terminal": 0.02,
            "use_dynamic_shifting": True,
        },
        "pipeline": {},
    },
)


RELATIVES = Relatives(  # whose attention has the same names
    (
        Published("qwen_image21", 4096, {"transformer_blocks": 32}),
        Published("qwen", 3072, {"transformer_blocks": 60}),
        Published("sd3", 2432, {"transformer_blocks": 38}),
        Published("sd3", 1536, {"transformer_blocks": 24}),
    )
)


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


NAMES = folder_names(SPLIT, from_diffusers, tokenizers={"text_encoder": "processor"})
