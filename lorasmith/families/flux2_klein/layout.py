"""The places of FLUX.2 klein's tensors in diffusers folders and in single files, and the configs of training.

The canonical names are those of published diffusers folders; those of the text encoder are Qwen3's without its head.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lorasmith.families.flux2_files import COUNTER, USUAL_NAME, find_flux2_vae, flux2_vae_config
from lorasmith.families.ldm_configs import UnusualShapesError
from lorasmith.families.ldm_names import count_of
from lorasmith.families.places import Place
from lorasmith.families.qwen_files import find_qwen3, qwen3_config
from lorasmith.families.relatives import Published, Relatives
from lorasmith.families.split_files import Part, SplitFiles, bare_names, folder_names, renamed
from lorasmith.families.weights import Shapes

TAPS = (9, 18, 27)
"""The layers of the text encoder that the denoiser takes, side by side."""
LAYERS = max(TAPS)
"""The layers of the text encoder that are loaded: what is behind them goes into no state that the denoiser takes."""
LENGTH = 512
"""Tokens of a text, padding included: the denoiser attends to the padding, which it was trained with."""
PATCH = 2
"""The side of a token, in elements of the VAE's own latents."""
_LANGUAGE = "model."
_MARK, _MARK_OF_DIFFUSERS = "single_stream_modulation.lin.weight", "single_stream_modulation.linear.weight"
_GUIDANCE = ("guidance_in.", "time_guidance_embed.guidance_embedder.")  # of FLUX.2 dev
_AXES = (32, 32, 32, 32)  # of a head: numbers that turn with each of the four axes of a place
_NATIVE = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^img_in\.", "x_embedder."),
        (r"^txt_in\.", "context_embedder."),
        (r"^time_in\.in_layer\.", "time_guidance_embed.timestep_embedder.linear_1."),
        (r"^time_in\.out_layer\.", "time_guidance_embed.timestep_embedder.linear_2."),
        (r"^((?:double|single)_stream_modulation(?:_img|_txt)?)\.lin\.", r"\1.linear."),
        (r"^final_layer\.linear\.", "proj_out."),
        (r"^final_layer\.adaLN_modulation\.1\.", "norm_out.linear."),
        (r"^single_blocks\.(\d+)\.linear1\.", r"single_transformer_blocks.\1.attn.to_qkv_mlp_proj."),
        (r"^single_blocks\.(\d+)\.linear2\.", r"single_transformer_blocks.\1.attn.to_out."),
        (r"^single_blocks\.(\d+)\.norm\.(query|key)_norm\.", r"single_transformer_blocks.\1.attn.norm_\2."),
        (r"^double_blocks\.(\d+)\.", r"transformer_blocks.\1."),
        (r"\.img_attn\.norm\.(query|key)_norm\.", r".attn.norm_\1."),
        (r"\.txt_attn\.norm\.(query|key)_norm\.", r".attn.norm_added_\1."),
        (r"\.img_attn\.proj\.", ".attn.to_out.0."),
        (r"\.txt_attn\.proj\.", ".attn.to_add_out."),
        (r"\.img_mlp\.0\.", ".ff.linear_in."),
        (r"\.img_mlp\.2\.", ".ff.linear_out."),
        (r"\.txt_mlp\.0\.", ".ff_context.linear_in."),
        (r"\.txt_mlp\.2\.", ".ff_context.linear_out."),
        (r"_query\.", "_q."),
        (r"_key\.", "_k."),
        (r"\.scale$", ".weight"),
    )
]
_FUSED = {
    ".img_attn.qkv.": (".attn.to_q.", ".attn.to_k.", ".attn.to_v."),
    ".txt_attn.qkv.": (".attn.add_q_proj.", ".attn.add_k_proj.", ".attn.add_v_proj."),
}


def vae_factor(configs: Mapping[str, Any]) -> int:
    """Pixels of a side for each element of the VAE's own latents, before patches are made of them."""
    return int(2 ** (len(configs["vae"]["block_out_channels"]) - 1))


def from_diffusers(component: str, names: Iterable[str]) -> dict[str, str]:
    """Canonical name -> name in the folder's file."""
    if component == "text_encoder":
        return {name.removeprefix(_LANGUAGE): name for name in names if name.startswith(_LANGUAGE)}
    return {name: name for name in names if name != COUNTER}


def find_denoiser(names: Iterable[str]) -> dict[str, Place]:
    """Places of the denoiser's tensors in a single file, by their native names or by those of diffusers. None of FLUX.2
    dev, which takes the guidance as an input."""
    names = list(names)
    bare = bare_names(names, _MARK_OF_DIFFUSERS)
    if bare:
        return {} if _takes_guidance(bare) else {name: Place(theirs) for name, theirs in bare.items()}
    native = bare_names(names, _MARK)
    places: dict[str, Place] = {}
    for name, theirs in ({} if _takes_guidance(native) else native).items():
        fused = next((old for old in _FUSED if old in name), "")
        for number, part in enumerate(_FUSED.get(fused, ())):
            places[renamed(name.replace(fused, part), _NATIVE)] = Place(theirs, number, 3)
        if not fused:
            ours = renamed(name, _NATIVE)
            places[ours] = Place(theirs, swaps_halves=ours.startswith("norm_out."))
    return places


def _takes_guidance(names: Iterable[str]) -> bool:
    return any(name.startswith(_GUIDANCE) for name in names)


def denoiser_config(shapes: Shapes) -> dict[str, Any]:
    """The config of a Flux2Transformer2DModel.

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
            "timestep_guidance_channels": shapes["time_guidance_embed.timestep_embedder.linear_1.weight"][1],
            "mlp_ratio": shapes["transformer_blocks.0.ff.linear_out.weight"][1] / width,
        }
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise UnusualShapesError from error
    if size != sum(_AXES):
        raise UnusualShapesError
    fixed = {"patch_size": 1, "out_channels": None, "rope_theta": 2000, "eps": 1e-6, "guidance_embeds": False}
    return {**sizes, **fixed, "axes_dims_rope": list(_AXES)}


def text_config(shapes: Shapes, denoiser: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the text encoder where it is the denoiser's.

    Raises:
        UnusualShapesError: it is of no published form, or that of another denoiser.
    """
    config = qwen3_config(shapes)
    if config["hidden_size"] * len(TAPS) != denoiser["joint_attention_dim"] or config["num_hidden_layers"] <= max(TAPS):
        raise UnusualShapesError
    return config


SPLIT = SplitFiles(
    find=find_denoiser,
    config=denoiser_config,
    parts={
        "text_encoder": Part("Qwen3 (4B of klein 4B, 8B of klein 9B)", find_qwen3, text_config),
        "vae": Part("VAE of FLUX.2", find_flux2_vae, lambda shapes, _: flux2_vae_config(shapes), "vae", USUAL_NAME),
    },
    published={"scheduler": {"use_dynamic_shifting": True}, "pipeline": {"is_distilled": False}},
)


RELATIVES = Relatives(
    (
        Published("flux2_klein", 4096, {"transformer_blocks": 8, "single_transformer_blocks": 24}),
        Published("flux2_klein", 3072, {"transformer_blocks": 5, "single_transformer_blocks": 20}),
        Published("flux2", 6144, {"transformer_blocks": 8, "single_transformer_blocks": 48}),
    ),
    alike=r"_blocks_\d|_stream_modulation_",
)


def layer_names() -> str:
    """The layers that an adapter may change, with their names in exported files: see `exporting.name_table`."""
    return Path(__file__).with_name("layer_names.tsv").read_text(encoding="ascii")


NAMES = folder_names(SPLIT, from_diffusers, tokenizers={"text_encoder": "tokenizer"})
