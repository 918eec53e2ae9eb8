"""The places of Anima's tensors in diffusers folders and in single files, and the configs that training depends on.

The canonical names are those of diffusers' classes and, for the text encoder, of Qwen3 without its output layer. A
single file has the conditioner, as `llm_adapter`, beside the denoiser.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lorasmith.families.ldm_configs import UnusualShapesError
from lorasmith.families.ldm_names import count_of
from lorasmith.families.places import Place
from lorasmith.families.qwen_files import find_qwen3, find_qwen_vae, qwen3_config, qwen_vae_config
from lorasmith.families.relatives import Relatives
from lorasmith.families.split_files import Part, SplitFiles, bare_names, folder_names, renamed
from lorasmith.families.weights import Shapes

PATCH = 2
"""The side of a token, in elements of the latents."""
MOST = 512
"""Tokens of a caption, of Qwen3 and of T5 with its end, that the pipeline takes; the denoiser's text is as long."""
_LANGUAGE = re.compile(r"(model\.)?((layers|embed_tokens|norm)\..*)")
_CHANNELS, _HEAD_SIZE, _ADAPTER_HEAD_SIZE = 16, 128, 64
_TEXT_WIDTH, _TEXT_LAYERS = 1024, 28  # of Qwen3-0.6B
_NATIVE = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^blocks\.", "transformer_blocks."),
        (r"^x_embedder\.proj\.1\.", "patch_embed.proj."),
        (r"^t_embedder\.1\.", "time_embed.t_embedder."),
        (r"^t_embedding_norm\.", "time_embed.norm."),
        (r"^final_layer\.linear\.", "proj_out."),
        (r"^final_layer\.adaln_modulation\.([12])\.", r"norm_out.linear_\1."),
        (r"\.adaln_modulation_self_attn\.([12])\.", r".norm1.linear_\1."),
        (r"\.adaln_modulation_cross_attn\.([12])\.", r".norm2.linear_\1."),
        (r"\.adaln_modulation_mlp\.([12])\.", r".norm3.linear_\1."),
        (r"\.self_attn\.", ".attn1."),
        (r"\.cross_attn\.", ".attn2."),
        (r"\.([qkv])_proj\.", r".to_\1."),
        (r"\.output_proj\.", ".to_out.0."),
        (r"\.([qk])_norm\.", r".norm_\1."),
        (r"\.mlp\.layer1\.", ".ff.net.0.proj."),
        (r"\.mlp\.layer2\.", ".ff.net.2."),
    )
]
_PARTS = ("blocks.", "x_embedder.", "t_embedder.", "t_embedding_norm.", "final_layer.")  # not: tables of positions


def vae_factor(configs: Mapping[str, Any]) -> int:
    """Pixels of a side for each element of the latents."""
    return int(2 ** len(configs["vae"]["temperal_downsample"]))


def from_diffusers(component: str, names: Iterable[str]) -> dict[str, str]:
    """Canonical name -> name in the folder's file."""
    if component != "text_encoder":
        return {name: name for name in names}
    places = {name: _LANGUAGE.fullmatch(name) for name in names}
    return {found[2]: name for name, found in places.items() if found}


def find_denoiser(names: Iterable[str]) -> dict[str, Place]:
    """Places of the denoiser's tensors in a single file. One without `llm_adapter` is of Cosmos-Predict2."""
    native = bare_names(names, "llm_adapter.out_proj.weight")
    parts = {bare: name for bare, name in native.items() if bare.startswith(_PARTS) and bare.endswith(".weight")}
    return {renamed(bare, _NATIVE): Place(name) for bare, name in parts.items()}


def find_conditioner(names: Iterable[str]) -> dict[str, Place]:
    """Places of the conditioner's tensors, in the denoiser's file or in another."""
    found = bare_names(names, "blocks.0.norm_cross_attn.weight")
    return {bare: Place(name) for bare, name in found.items()}


def denoiser_config(shapes: Shapes) -> dict[str, Any]:
    """The config of a CosmosTransformer3DModel.

    Raises:
        UnusualShapesError: it is of no published form.
    """
    try:
        block = "transformer_blocks.0"
        width, inputs = shapes["patch_embed.proj.weight"]
        size = shapes[f"{block}.attn1.norm_q.weight"][0]
        sizes = {
            "in_channels": inputs // PATCH**2 - 1,  # without the padding mask
            "out_channels": shapes["proj_out.weight"][0] // PATCH**2,
            "num_attention_heads": width // size,
            "attention_head_dim": size,
            "num_layers": count_of(shapes, "transformer_blocks"),
            "mlp_ratio": shapes[f"{block}.ff.net.0.proj.weight"][0] / width,
            "text_embed_dim": shapes[f"{block}.attn2.to_k.weight"][1],
            "adaln_lora_dim": shapes[f"{block}.norm1.linear_1.weight"][0],
        }
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise UnusualShapesError from error
    if size != _HEAD_SIZE or sizes["in_channels"] != _CHANNELS:
        raise UnusualShapesError
    return {
        **sizes,
        "max_size": [128, 240, 240],
        "patch_size": [1, PATCH, PATCH],
        "rope_scale": [1.0, 4.0, 4.0],
        "concat_padding_mask": True,
        "extra_pos_embed_type": None,
    }


def conditioner_config(shapes: Shapes, denoiser: Mapping[str, Any]) -> dict[str, Any]:
    """The config of an AnimaTextConditioner where it is the denoiser's.

    Raises:
        UnusualShapesError: it is of no published form, or that of another denoiser.
    """
    try:
        width = shapes["blocks.0.norm_cross_attn.weight"][0]
        size = shapes["blocks.0.cross_attn.q_norm.weight"][0]
        vocabulary, outputs = shapes["embed.weight"]
        config = {
            "source_dim": shapes["blocks.0.cross_attn.k_proj.weight"][1],
            "target_dim": outputs,
            "model_dim": width,
            "num_layers": count_of(shapes, "blocks"),
            "num_attention_heads": width // size,
            "mlp_ratio": shapes["blocks.0.mlp.0.weight"][0] / width,
            "target_vocab_size": vocabulary,
            "use_self_attention": "blocks.0.norm_self_attn.weight" in shapes,
            "use_layer_norm": "blocks.0.norm_cross_attn.bias" in shapes,
            "min_sequence_length": MOST,
        }
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise UnusualShapesError from error
    if size != _ADAPTER_HEAD_SIZE or outputs != denoiser["text_embed_dim"]:
        raise UnusualShapesError
    return config


def text_config(shapes: Shapes, denoiser: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001  always the same
    """The config of Qwen3-0.6B.

    Raises:
        UnusualShapesError: it is of another size.
    """
    config = qwen3_config(shapes)
    if config["hidden_size"] != _TEXT_WIDTH or config["num_hidden_layers"] != _TEXT_LAYERS:
        raise UnusualShapesError
    return config


SPLIT = SplitFiles(
    find=find_denoiser,
    config=denoiser_config,
    parts={
        "text_conditioner": Part("llm_adapter", find_conditioner, conditioner_config),
        "text_encoder": Part("Qwen3-0.6B", find_qwen3, text_config, usual_name="base"),
        "vae": Part("VAE of Qwen-Image", find_qwen_vae, lambda shapes, _: qwen_vae_config(shapes), "vae", "qwen"),
    },
    published={"scheduler": {"shift": 3.0}},
)


RELATIVES = Relatives(alike=r"^transformer_blocks_\d")


def layer_names() -> str:
    """The layers that an adapter may change, with their names in exported files: see `exporting.name_table`. Those of
    52 blocks, the deepest Anima; the first has 28."""
    return Path(__file__).with_name("layer_names.tsv").read_text(encoding="ascii")


NAMES = folder_names(
    SPLIT, from_diffusers, tokenizers={"text_encoder": "tokenizer", "text_conditioner": "t5_tokenizer"}
)
