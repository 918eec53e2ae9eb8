"""The places of FLUX.1's tensors in diffusers folders and in single files, and the configs that training depends on.

The canonical names of the denoiser and the VAE are those of published diffusers folders, those of the first text
encoder CLIP's, those of the second T5's encoder without what stands before them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lorasmith.families.flux1.text_files import clip_config, find_clip, find_t5, t5_config, t5_names
from lorasmith.families.flux_files import USUAL_NAME, find_flux_vae, flux_vae_config
from lorasmith.families.ldm_configs import UnusualShapesError
from lorasmith.families.ldm_names import clip_names, count_of, vae_folder_names
from lorasmith.families.places import Place
from lorasmith.families.relatives import Published, Relatives
from lorasmith.families.split_files import Part, SplitFiles, bare_names, folder_names, renamed
from lorasmith.families.weights import Shapes

LENGTH = 512
"""Tokens of T5, its end and padding included: the denoiser attends to the padding."""
PATCH = 2
"""The side of a token, in elements of the latents."""
CLIP, T5 = "text_encoder", "text_encoder_2"
_MARK, _MARK_OF_DIFFUSERS = "double_blocks.0.img_attn.qkv.weight", "single_transformer_blocks.0.proj_mlp.weight"
_NEEDED = ("vector_in.in_layer.weight", "time_text_embed.text_embedder.linear_1.weight")
"""Either of them: Chroma and FLUX.2 have none."""
_AXES = (16, 56, 56)  # of a head: numbers that turn with each of the three axes of a place
_NATIVE = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^img_in\.", "x_embedder."),
        (r"^txt_in\.", "context_embedder."),
        (r"^time_in\.", "time_text_embed.timestep_embedder."),
        (r"^guidance_in\.", "time_text_embed.guidance_embedder."),
        (r"^vector_in\.", "time_text_embed.text_embedder."),
        (r"\.in_layer\.", ".linear_1."),
        (r"\.out_layer\.", ".linear_2."),
        (r"^final_layer\.linear\.", "proj_out."),
        (r"^final_layer\.adaLN_modulation\.1\.", "norm_out.linear."),
        (r"^single_blocks\.(\d+)\.modulation\.lin\.", r"single_transformer_blocks.\1.norm.linear."),
        (r"^single_blocks\.(\d+)\.linear2\.", r"single_transformer_blocks.\1.proj_out."),
        (r"^single_blocks\.(\d+)\.norm\.(query|key)_norm\.", r"single_transformer_blocks.\1.attn.norm_\2."),
        (r"^single_blocks\.", "single_transformer_blocks."),
        (r"^double_blocks\.", "transformer_blocks."),
        (r"\.img_mod\.lin\.", ".norm1.linear."),
        (r"\.txt_mod\.lin\.", ".norm1_context.linear."),
        (r"\.img_attn\.norm\.(query|key)_norm\.", r".attn.norm_\1."),
        (r"\.txt_attn\.norm\.(query|key)_norm\.", r".attn.norm_added_\1."),
        (r"\.img_attn\.proj\.", ".attn.to_out.0."),
        (r"\.txt_attn\.proj\.", ".attn.to_add_out."),
        (r"\.img_mlp\.0\.", ".ff.net.0.proj."),
        (r"\.img_mlp\.2\.", ".ff.net.2."),
        (r"\.txt_mlp\.0\.", ".ff_context.net.0.proj."),
        (r"\.txt_mlp\.2\.", ".ff_context.net.2."),
        (r"_query\.", "_q."),
        (r"_key\.", "_k."),
        (r"\.scale$", ".weight"),
    )
]
_QKV = {
    ".img_attn.qkv.": (".attn.to_q.", ".attn.to_k.", ".attn.to_v."),
    ".txt_attn.qkv.": (".attn.add_q_proj.", ".attn.add_k_proj.", ".attn.add_v_proj."),
    ".linear1.": (".attn.to_q.", ".attn.to_k.", ".attn.to_v.", ".proj_mlp."),
}
_MLP = 4  # times the width: the rows of the MLP in `linear1`


def vae_factor(configs: Mapping[str, Any]) -> int:
    """Pixels of a side for each element of the latents."""
    return int(2 ** (len(configs["vae"]["block_out_channels"]) - 1))


def from_diffusers(component: str, names: Iterable[str]) -> dict[str, str]:
    """Canonical name -> name in the folder's file."""
    if component == CLIP:
        return clip_names(names)
    if component == T5:
        return t5_names(set(names))
    return vae_folder_names(names) if component == "vae" else {name: name for name in names}


def find_denoiser(names: Iterable[str]) -> dict[str, Place]:
    """Places of the denoiser's tensors in a single file, by their native names or by those of diffusers."""
    names = list(names)
    bare = bare_names(names, _MARK_OF_DIFFUSERS) or bare_names(names, _MARK)
    if not any(name in bare for name in _NEEDED):
        return {}
    if _MARK_OF_DIFFUSERS in bare:
        return {name: Place(theirs) for name, theirs in bare.items()}
    places: dict[str, Place] = {}
    for name, theirs in bare.items():
        fused = next((old for old in _QKV if old in name), "")
        for number, part in enumerate(_QKV.get(fused, ())):
            count = 3 + _MLP if len(_QKV[fused]) > 3 else 3
            span = _MLP if number == 3 else 1
            places[renamed(name.replace(fused, part), _NATIVE)] = Place(theirs, number, count, span)
        if not fused:
            ours = renamed(name, _NATIVE)
            places[ours] = Place(theirs, swaps_halves=ours.startswith("norm_out."))
    return places


def denoiser_config(shapes: Shapes) -> dict[str, Any]:
    """The config of a FluxTransformer2DModel.

    Raises:
        UnusualShapesError: it is of no published form.
    """
    try:
        size = shapes["single_transformer_blocks.0.attn.norm_q.weight"][0]
        width, channels = shapes["x_embedder.weight"]
        sizes = {
            "in_channels": channels,
            "num_layers": count_of(shapes, "transformer_blocks"),
            "num_single_layers": count_of(shapes, "single_transformer_blocks"),
            "attention_head_dim": size,
            "num_attention_heads": width // size,
            "joint_attention_dim": shapes["context_embedder.weight"][1],
            "pooled_projection_dim": shapes["time_text_embed.text_embedder.linear_1.weight"][1],
        }
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise UnusualShapesError from error
    if size != sum(_AXES):
        raise UnusualShapesError
    has_guidance = any(name.startswith("time_text_embed.guidance_embedder.") for name in shapes)
    fixed = {"patch_size": 1, "out_channels": None, "axes_dims_rope": list(_AXES)}
    return {**sizes, **fixed, "guidance_embeds": has_guidance}


SPLIT = SplitFiles(
    find=find_denoiser,
    config=denoiser_config,
    parts={
        CLIP: Part("CLIP-L", find_clip, clip_config, usual_name=r"clip[-_. ]?l"),
        T5: Part("T5-XXL", find_t5, t5_config, usual_name=r"t5"),
        "vae": Part("VAE of FLUX.1", find_flux_vae, lambda shapes, _: flux_vae_config(shapes), "vae", USUAL_NAME),
    },
    published={
        "scheduler": {
            "base_shift": 0.5,
            "max_shift": 1.15,
            "base_image_seq_len": 256,
            "max_image_seq_len": 4096,
            "use_dynamic_shifting": True,
        },
        "pipeline": {},
    },
)


RELATIVES = Relatives(
    (Published("flux1", 3072, {"transformer_blocks": 19, "single_transformer_blocks": 38}),),
    alike=r"_blocks_\d",
    namesake="chroma",
)


def layer_names() -> str:
    """The layers that an adapter may change, with their names in exported files: see `exporting.name_table`."""
    return Path(__file__).with_name("layer_names.tsv").read_text(encoding="ascii")


def text_names() -> str:
    """The layers of CLIP that other trainers' files may change, under the names that diffusers and ComfyUI both read.

    No file in use changes T5, which diffusers would refuse.
    """
    return Path(__file__).with_name("text_names.tsv").read_text(encoding="ascii")


def native_names() -> str:
    """Their places in the published checkpoint: see `exporting.formats.parse_native`."""
    return Path(__file__).with_name("native_names.tsv").read_text(encoding="ascii")


NAMES = folder_names(SPLIT, from_diffusers, tokenizers={CLIP: "tokenizer", T5: "tokenizer_2"})
