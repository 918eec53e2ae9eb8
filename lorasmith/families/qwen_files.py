"""Files of Qwen3, Qwen3-VL and the VAE of Qwen-Image without a folder around them: names, and configs from shapes.

Numbers that shapes do not tell are those of the published configs. Needs no torch and reads no file. Knows no family.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from lorasmith.families.ldm_configs import UnusualShapesError
from lorasmith.families.ldm_names import count_of
from lorasmith.families.places import Place
from lorasmith.families.split_files import bare_names, renamed
from lorasmith.families.weights import Shapes

_HEAD_SIZE = 128  # of all published Qwen3 and Qwen3-VL
_EPSILON = 1e-6
_THETA, _THETA_VL = 1e6, 5e6
_LANGUAGE_PARTS = ("embed_tokens.", "layers.", "norm.")

# -- language models -------------------------------------------------------------------------------


def find_qwen3(names: Iterable[str]) -> dict[str, Place]:
    """The places of Qwen3's tensors; none in a file that holds Qwen3-VL, whose text model has the same names."""
    names = list(names)
    return {} if _has_eyes(names) else _find_language(names)


def find_qwen3_vl(names: Iterable[str]) -> dict[str, Place]:
    """The places of the tensors of Qwen3-VL's text model; none in a file without its eyes, which may be Qwen3."""
    names = list(names)
    return _find_language(names) if _has_eyes(names) else {}


def qwen3_config(shapes: Shapes) -> dict[str, Any]:
    """The config of Qwen3.

    Raises:
        UnusualShapesError: it is of no published form.
    """
    return {**_language_sizes(shapes), "rope_parameters": {"rope_type": "default", "rope_theta": _THETA}}


def qwen3_vl_config(shapes: Shapes) -> dict[str, Any]:
    """The config of Qwen3-VL's text model, as `text_config`.

    Raises:
        UnusualShapesError: it is of no published form.
    """
    positions = {
        "rope_type": "default",
        "rope_theta": _THETA_VL,
        "mrope_interleaved": True,
        "mrope_section": [24, 20, 20],
    }
    return {"text_config": {**_language_sizes(shapes), "rope_parameters": positions}}


def _has_eyes(names: Iterable[str]) -> bool:
    return any("visual." in name for name in names)


def _find_language(names: Iterable[str]) -> dict[str, Place]:
    found = bare_names(names, "layers.0.self_attn.q_norm.weight")  # T5 has embed_tokens too
    return {bare: Place(name) for bare, name in found.items() if bare.startswith(_LANGUAGE_PARTS)}


def _language_sizes(shapes: Shapes) -> dict[str, Any]:
    try:
        vocabulary, width = shapes["embed_tokens.weight"]
        size = shapes["layers.0.self_attn.q_norm.weight"][0]
        sizes = {
            "vocab_size": vocabulary,
            "hidden_size": width,
            "intermediate_size": shapes["layers.0.mlp.gate_proj.weight"][0],
            "num_hidden_layers": count_of(shapes, "layers"),
            "num_attention_heads": shapes["layers.0.self_attn.q_proj.weight"][0] // size,
            "num_key_value_heads": shapes["layers.0.self_attn.k_proj.weight"][0] // size,
            "head_dim": size,
        }
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise UnusualShapesError from error
    if size != _HEAD_SIZE:
        raise UnusualShapesError
    fixed = {"rms_norm_eps": _EPSILON, "hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0}
    return {**sizes, **fixed}


# -- the VAE ---------------------------------------------------------------------------------------

_MEANS = [
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
]
_DEVIATIONS = [
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.916),
]
_VAE_MARK = "decoder.middle.0.residual.0.gamma"  # in the original names, which Wan's VAE has too
_VAE_DIFFUSERS_MARK = "decoder.mid_block.resnets.0.norm1.gamma"
_VAE_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
_VAE_RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^conv1\.", "quant_conv."),
        (r"^conv2\.", "post_quant_conv."),
        (r"^((?:en|de)coder)\.conv1\.", r"\1.conv_in."),
        (r"^((?:en|de)coder)\.head\.0\.", r"\1.norm_out."),
        (r"^((?:en|de)coder)\.head\.2\.", r"\1.conv_out."),
        (r"^((?:en|de)coder)\.middle\.0\.", r"\1.mid_block.resnets.0."),
        (r"^((?:en|de)coder)\.middle\.1\.", r"\1.mid_block.attentions.0."),
        (r"^((?:en|de)coder)\.middle\.2\.", r"\1.mid_block.resnets.1."),
        (r"^encoder\.downsamples\.", "encoder.down_blocks."),
        (r"\.residual\.0\.", ".norm1."),
        (r"\.residual\.2\.", ".conv1."),
        (r"\.residual\.3\.", ".norm2."),
        (r"\.residual\.6\.", ".conv2."),
        (r"\.shortcut\.", ".conv_shortcut."),
    )
]
_UPSAMPLES = re.compile(r"decoder\.upsamples\.(\d+)\.")


def find_qwen_vae(names: Iterable[str]) -> dict[str, Place]:
    """The places of the VAE's tensors, by the names of Wan's code, which ComfyUI has too, or by diffusers'."""
    names = list(names)
    bare = bare_names(names, _VAE_DIFFUSERS_MARK)
    if not bare:
        original = bare_names(names, _VAE_MARK)
        layers = _layers_of_a_level(original)
        bare = {_up_block(renamed(name, _VAE_RULES), layers): theirs for name, theirs in original.items()}
    return {ours: Place(theirs) for ours, theirs in bare.items() if ours.startswith(_VAE_PARTS)}


def qwen_vae_config(shapes: Shapes) -> dict[str, Any]:
    """The config of an AutoencoderKLQwenImage.

    Raises:
        UnusualShapesError: it is of no published form; the VAE of Wan 2.2 is none.
    """
    try:
        base, channels = shapes["encoder.conv_in.weight"][:2]
        latents = shapes["post_quant_conv.weight"][0]
        levels = count_of(shapes, "decoder.up_blocks")
        layers = count_of(shapes, "decoder.up_blocks.0.resnets") - 1
        first = [level * (layers + 1) for level in range(levels)]  # the first layer of each level of the encoder
        widths = [shapes[f"encoder.down_blocks.{layer}.conv1.weight"][0] for layer in first]
        sizes = {
            "base_dim": base,
            "z_dim": latents,
            "dim_mult": [width // base for width in widths],
            "num_res_blocks": layers,
            "temperal_downsample": [
                f"encoder.down_blocks.{layer + layers}.time_conv.weight" in shapes for layer in first[:-1]
            ],
            "input_channels": channels,
        }
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise UnusualShapesError from error
    if latents != len(_MEANS) or channels != 3:
        raise UnusualShapesError
    return {**sizes, "attn_scales": [], "dropout": 0.0, "latents_mean": _MEANS, "latents_std": _DEVIATIONS}


def _layers_of_a_level(names: Mapping[str, str]) -> int:
    """The layers of a level of the decoder, that which enlarges the picture among them."""
    numbers = [int(found[1]) for name in names if (found := _UPSAMPLES.match(name)) and ".resample." in name]
    return min(numbers, default=0) + 1


def _up_block(name: str, layers: int) -> str:
    """ "decoder.upsamples.5.norm1.gamma" -> "decoder.up_blocks.1.resnets.1.norm1.gamma"."""
    found = _UPSAMPLES.match(name)
    if found is None:
        return name
    level, layer = divmod(int(found[1]), layers)
    rest = name[found.end() :]
    kind = "upsamplers.0" if rest.startswith(("resample.", "time_conv.")) else f"resnets.{layer}"
    return f"decoder.up_blocks.{level}.{kind}.{rest}"
