"""Files of FLUX.1's text encoders without a folder around them, CLIP-L and T5-XXL: names, and configs from shapes.

Numbers that shapes do not tell are those of the published configs. Needs no torch and reads no file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from lorasmith.families import ldm_configs
from lorasmith.families.ldm_configs import UnusualShapesError
from lorasmith.families.ldm_names import clip_names, count_of
from lorasmith.families.places import Place
from lorasmith.families.split_files import bare_names
from lorasmith.families.weights import Shapes

_ENCODER, _SHARED, _TOKENS = "encoder.", "shared.weight", "embed_tokens.weight"
_CLIP_MARK = "text_model.embeddings.token_embedding.weight"
_T5_MARK = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
_HEAD_SIZE = 64  # of T5 and of CLIP
_CLIP = {
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
}
_T5 = {
    "d_kv": _HEAD_SIZE,
    "dense_act_fn": "gelu_new",
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-6,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
}


def t5_names(names: Collection[str]) -> dict[str, str]:
    """Canonical name -> name in a file of T5. The table of tokens has two names, either or both."""
    found = {name.removeprefix(_ENCODER): name for name in names if name.startswith(_ENCODER)}
    return found | ({_TOKENS: _SHARED} if _SHARED in names else {})


def find_t5(names: Iterable[str]) -> dict[str, Place]:
    """The places of the tensors of T5's encoder."""
    bare = bare_names(names, _T5_MARK)
    return {ours: Place(bare[theirs]) for ours, theirs in t5_names(bare).items()}


def t5_config(shapes: Shapes, denoiser: Mapping[str, Any]) -> dict[str, Any]:
    """The config of T5 where it is the denoiser's.

    Raises:
        UnusualShapesError: it is of no published form, or that of another denoiser.
    """
    try:
        vocabulary, width = shapes[_TOKENS]
        buckets, heads = shapes["block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        sizes = {
            "vocab_size": vocabulary,
            "d_model": width,
            "d_ff": shapes["block.0.layer.1.DenseReluDense.wi_0.weight"][0],
            "num_heads": heads,
            "num_layers": count_of(shapes, "block"),
            "relative_attention_num_buckets": buckets,
        }
        inside = shapes["block.0.layer.0.SelfAttention.q.weight"][0]
    except (KeyError, IndexError, ValueError) as error:
        raise UnusualShapesError from error
    if inside != heads * _HEAD_SIZE or width != denoiser["joint_attention_dim"]:
        raise UnusualShapesError
    return {**_T5, **sizes}


def find_clip(names: Iterable[str]) -> dict[str, Place]:
    """The places of the tensors of CLIP's text encoder."""
    bare = bare_names(names, _CLIP_MARK)
    return {ours: Place(bare[theirs]) for ours, theirs in clip_names(bare).items()}


def clip_config(shapes: Shapes, denoiser: Mapping[str, Any]) -> dict[str, Any]:
    """The config of CLIP's text encoder where it is the denoiser's.

    Raises:
        UnusualShapesError: it is of no published form, or that of another denoiser.
    """
    config = ldm_configs.clip_config(shapes, _CLIP)
    if config["hidden_size"] != denoiser["pooled_projection_dim"]:
        raise UnusualShapesError
    return config
