"""The places of Z-Image's tensors in diffusers folders and in single files, and the configs that training depends on.

The canonical names of the denoiser and the VAE are those of published diffusers folders; those of the text encoder are
Qwen3's without the head that predicts words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lorasmith.families.flux_files import USUAL_NAME, find_flux_vae, flux_vae_config
from lorasmith.families.ldm_configs import UnusualShapesError
from lorasmith.families.ldm_names import count_of, vae_folder_names
from lorasmith.families.places import Place
from lorasmith.families.qwen_files import find_qwen3, qwen3_config
from lorasmith.families.relatives import Published, Relatives
from lorasmith.families.split_files import Part, SplitFiles, bare_names, folder_names, renamed
from lorasmith.families.weights import Shapes

PATCH = 2
"""The side of a token, in elements of the latents."""
TOKENS = 32
"""A picture and a caption are filled up to a multiple of this many tokens with learned tokens that are attended to."""
LAYERS_BEHIND = 1
"""The layers of the text encoder that go into no state that the denoiser takes, and are not loaded."""
SHIFT, TURBO_SHIFT = 6.0, 3.0
"""The shift in the scheduler's config of the published base, and of Turbo. Nothing else differs but names."""
_LANGUAGE, _HEAD = "model.", "lm_head."
_AXES = (32, 48, 48)  # of a head: numbers that turn with the place in the text, the row and the column
_NATIVE = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^x_embedder\.", "all_x_embedder.2-1."),
        (r"^final_layer\.", "all_final_layer.2-1."),
        (r"\.attention\.out\.", ".attention.to_out.0."),
        (r"\.attention\.([qk])_norm\.", r".attention.norm_\1."),
    )
]
_FUSED = re.compile(r"\.attention\.qkv\.(?=weight$)")
_OTHER_FORMS = ("siglip_", "dec_net.")  # Omni, which sees pictures; a model of pixels
_UNUSED = "norm_final.weight"  # in native files, and used by no program


def vae_factor(configs: Mapping[str, Any]) -> int:
    """Pixels of a side for each element of the latents."""
    return int(2 ** (len(configs["vae"]["block_out_channels"]) - 1))


def from_diffusers(component: str, names: Iterable[str]) -> dict[str, str]:
    """Canonical name -> name in the folder's file."""
    if component == "vae":
        return vae_folder_names(names)
    if component != "text_encoder":
        return {name: name for name in names}
    return {name.removeprefix(_LANGUAGE): name for name in names if not name.startswith(_HEAD)}


def find_denoiser(names: Iterable[str]) -> dict[str, Place]:
    """Places of the denoiser's tensors in a single file, by their native names or by those of diffusers."""
    bare = bare_names(names, "cap_pad_token")
    if any(name.startswith(_OTHER_FORMS) for name in bare):
        return {}
    places: dict[str, Place] = {}
    for name, theirs in bare.items():
        if _FUSED.search(name):
            for number, letter in enumerate("qkv"):
                places[_FUSED.sub(f".attention.to_{letter}.", name)] = Place(theirs, number, 3)
        elif name != _UNUSED:
            places[renamed(name, _NATIVE)] = Place(theirs)
    return places


def denoiser_config(shapes: Shapes) -> dict[str, Any]:
    """The config of a ZImageTransformer2DModel.

    Raises:
        UnusualShapesError: it is of no published form.
    """
    try:
        size = shapes["layers.0.attention.norm_q.weight"][0]
        width = shapes["cap_pad_token"][1]
        sizes = {
            "in_channels": shapes["all_x_embedder.2-1.weight"][1] // PATCH**2,
            "dim": width,
            "n_layers": count_of(shapes, "layers"),
            "n_refiner_layers": count_of(shapes, "noise_refiner"),
            "n_heads": width // size,
            "n_kv_heads": shapes["layers.0.attention.to_k.weight"][0] // size,
            "cap_feat_dim": shapes["cap_embedder.1.weight"][1],
        }
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise UnusualShapesError from error
    if size != sum(_AXES):
        raise UnusualShapesError
    positions = {"axes_dims": list(_AXES), "axes_lens": [1536, 512, 512], "rope_theta": 256.0}
    fixed = {"all_patch_size": [PATCH], "all_f_patch_size": [1], "norm_eps": 1e-5, "qk_norm": True, "t_scale": 1000.0}
    return {**sizes, **positions, **fixed, "siglip_feat_dim": None}


def text_config(shapes: Shapes, denoiser: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the text encoder where it is the denoiser's.

    Raises:
        UnusualShapesError: it is of no published form, or that of another denoiser.
    """
    config = qwen3_config(shapes)
    if config["hidden_size"] != denoiser["cap_feat_dim"]:
        raise UnusualShapesError
    return config


SPLIT = SplitFiles(
    find=find_denoiser,
    config=denoiser_config,
    parts={
        "text_encoder": Part("Qwen3-4B", find_qwen3, text_config),
        "vae": Part("VAE of FLUX.1", find_flux_vae, lambda shapes, _: flux_vae_config(shapes), "vae", USUAL_NAME),
    },
    published={"scheduler": {"shift": SHIFT, "use_dynamic_shifting": False}, "pipeline": {}},
)


RELATIVES = Relatives((Published("zimage", 3840), Published("lumina2", 2304)))


def layer_names() -> str:
    """The layers that an adapter may change, with their names in exported files: see `exporting.name_table`."""
    return Path(__file__).with_name("layer_names.tsv").read_text(encoding="ascii")


def native_names() -> str:
    """The places of those layers in the original model that have other names there: see `exporting.formats`."""
    return Path(__file__).with_name("native_names.tsv").read_text(encoding="ascii")


NAMES = folder_names(SPLIT, from_diffusers, tokenizers={"text_encoder": "tokenizer"})
