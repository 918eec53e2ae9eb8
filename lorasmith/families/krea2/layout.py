"""The places of Krea 2's tensors in diffusers folders and in single files, and the configs that training depends on.

The canonical names of the denoiser and the VAE are those of published diffusers folders; those of the text encoder are
Qwen3-VL's without the parts that see pictures.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lorasmith.families.ldm_configs import UnusualShapesError
from lorasmith.families.ldm_names import count_of
from lorasmith.families.places import Place
from lorasmith.families.qwen_files import find_qwen3_vl, find_qwen_vae, qwen3_vl_config, qwen_vae_config
from lorasmith.families.relatives import Published, Relatives
from lorasmith.families.split_files import Part, SplitFiles, bare_names, folder_names, renamed
from lorasmith.families.weights import Shapes

TAPS = (2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35)
"""The layers of the text encoder that the denoiser takes, where `model_index.json` names none."""
PATCH = 2
"""The side of a token, in elements of the latents."""
FLOAT32 = frozenset({"norm", "norm1", "norm2", "norm_q", "norm_k"})
"""Parts of the denoiser's names whose tensors stay float32 whatever the precision, as diffusers loads them: norms."""
_AXES = (32, 48, 48)  # of a head: numbers that turn with the text, the row and the column
_MODULATIONS = 6
_NATIVE = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^first\.", "img_in."),
        (r"^tmlp\.0\.", "time_embed.linear_1."),
        (r"^tmlp\.2\.", "time_embed.linear_2."),
        (r"^tproj\.1\.", "time_mod_proj."),
        (r"^txtmlp\.0\.scale$", "txt_in.norm.weight"),
        (r"^txtmlp\.1\.", "txt_in.linear_1."),
        (r"^txtmlp\.3\.", "txt_in.linear_2."),
        (r"^txtfusion\.", "text_fusion."),
        (r"^blocks\.", "transformer_blocks."),
        (r"^last\.linear\.", "final_layer.linear."),
        (r"^last\.norm\.scale$", "final_layer.norm.weight"),
        (r"^last\.modulation\.lin$", "final_layer.scale_shift_table"),
        (r"\.attn\.w([qkv])\.", r".attn.to_\1."),
        (r"\.attn\.wo\.", ".attn.to_out.0."),
        (r"\.attn\.gate\.", ".attn.to_gate."),
        (r"\.attn\.qknorm\.([qk])norm\.scale$", r".attn.norm_\1.weight"),
        (r"\.mlp\.", ".ff."),
        (r"\.prenorm\.scale$", ".norm1.weight"),
        (r"\.postnorm\.scale$", ".norm2.weight"),
        (r"\.mod\.lin$", ".scale_shift_table"),
    )
]
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


def find_denoiser(names: Iterable[str]) -> dict[str, Place]:
    """Places of the denoiser's tensors in a single file, by their native names or by those of diffusers."""
    names = list(names)
    bare = bare_names(names, "text_fusion.projector.weight")
    if bare:
        return {name: Place(theirs) for name, theirs in bare.items()}
    native = bare_names(names, "txtfusion.projector.weight")
    return {
        ours: Place(theirs, rows=_rows(ours)) for bare, theirs in native.items() if (ours := renamed(bare, _NATIVE))
    }


def _rows(name: str) -> int:
    """The six modulation vectors of a block are in one row in native files."""
    return _MODULATIONS if name.startswith("transformer_blocks.") and name.endswith(".scale_shift_table") else 0


def denoiser_config(shapes: Shapes) -> dict[str, Any]:
    """The config of a Krea2Transformer2DModel.

    Raises:
        UnusualShapesError: it is of no published form.
    """
    try:
        block, fusion = "transformer_blocks.0", "text_fusion.refiner_blocks.0"
        size, text_size = (shapes[f"{part}.attn.norm_q.weight"][0] for part in (block, fusion))
        heads = {part: shapes[f"{part}.attn.to_q.weight"][0] for part in (block, fusion)}
        keys = {part: shapes[f"{part}.attn.to_k.weight"][0] for part in (block, fusion)}
        sizes = {
            "in_channels": shapes["img_in.weight"][1],
            "num_layers": count_of(shapes, "transformer_blocks"),
            "attention_head_dim": size,
            "num_attention_heads": heads[block] // size,
            "num_key_value_heads": keys[block] // size,
            "intermediate_size": shapes[f"{block}.ff.up.weight"][0],
            "timestep_embed_dim": shapes["time_embed.linear_1.weight"][1],
            "text_hidden_dim": shapes["txt_in.linear_1.weight"][1],
            "num_text_layers": shapes["text_fusion.projector.weight"][1],
            "text_num_attention_heads": heads[fusion] // text_size,
            "text_num_key_value_heads": keys[fusion] // text_size,
            "text_intermediate_size": shapes[f"{fusion}.ff.up.weight"][0],
            "num_layerwise_text_blocks": count_of(shapes, "text_fusion.layerwise_blocks"),
            "num_refiner_text_blocks": count_of(shapes, "text_fusion.refiner_blocks"),
        }
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise UnusualShapesError from error
    if size != sum(_AXES):
        raise UnusualShapesError
    return {**sizes, "axes_dims_rope": list(_AXES), "rope_theta": 1000.0, "norm_eps": 1e-5}


def text_config(shapes: Shapes, denoiser: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the text encoder where it is the denoiser's.

    Raises:
        UnusualShapesError: it is of no published form, or that of another denoiser.
    """
    config = qwen3_vl_config(shapes)
    language = config["text_config"]
    if language["hidden_size"] != denoiser["text_hidden_dim"] or language["num_hidden_layers"] <= max(TAPS):
        raise UnusualShapesError
    return config


SPLIT = SplitFiles(
    find=find_denoiser,
    config=denoiser_config,
    parts={
        "text_encoder": Part("Qwen3-VL-4B", find_qwen3_vl, text_config),
        "vae": Part("VAE of Qwen-Image", find_qwen_vae, lambda shapes, _: qwen_vae_config(shapes), "vae", "qwen"),
    },
    published={
        "scheduler": {
            "base_shift": 0.5,
            "max_shift": 1.15,
            "base_image_seq_len": 256,
            "max_image_seq_len": 6400,
            "use_dynamic_shifting": True,
        },
        "pipeline": {"text_encoder_select_layers": list(TAPS), "patch_size": PATCH},
    },
)


RELATIVES = Relatives((Published("krea2", 6144, {"transformer_blocks": 28}),))


def layer_names() -> str:
    """The layers that an adapter may change, with their names in exported files: see `exporting.name_table`."""
    return Path(__file__).with_name("layer_names.tsv").read_text(encoding="ascii")


NAMES = folder_names(SPLIT, from_diffusers, tokenizers={"text_encoder": "tokenizer"})
