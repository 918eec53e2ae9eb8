"""The VAE of Qwen-Image 2.1 in a file of its own: names, and its config from shapes. Needs no torch and reads no file.

Numbers that shapes do not tell are those of the published config.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from lorasmith.families.ldm_configs import UnusualShapesError
from lorasmith.families.ldm_names import count_of
from lorasmith.families.places import Place
from lorasmith.families.split_files import bare_names, renamed
from lorasmith.families.weights import Shapes

FACTOR = 16
"""Pixels of a side for each element of the latents, which is a token too."""
PICTURE_CHANNELS = 4
"""The channels of a picture for the VAE: red, green, blue, and how opaque a pixel is."""
_MEANS = [
    *(0.5126, 0.7721, -0.0631, 1.3506, -0.7855, -2.1025, -0.3458, 1.3722, 1.8873, -1.7177),
    *(-0.651, 0.2732, 0.7562, -0.6163, -1.0277, 3.8363, 2.021, 0.0472, 0.932, 2.0087),
    *(2.4954, -0.1391, -1.4249, 1.8464, -0.5236, 1.2826, 3.7046, -1.3035, 2.7286, -1.4518),
    *(-1.9036, -1.9955, -0.0342, -1.0265, -0.7636, 3.0555, 0.0746, -3.0751, -0.1076, 1.7376),
    *(-1.0914, -1.9435, -0.2784, -1.368, 0.4809, -0.4433, 0.3764, 0.5729, -2.0595, 1.096),
    *(-1.326, -2.0211, -5.0179, 0.5275, 4.0162, 1.8505, 0.3026, 1.9373, 1.4937, 0.2632),
    *(0.5547, -1.7121, -0.1562, 0.0304),
]
_DEVIATIONS = [
    *(3.2001, 3.2936, 3.4321, 3.0091, 3.1061, 4.0379, 4.0705, 3.791, 3.0785, 3.65),
    *(3.9308, 3.0904, 2.8778, 3.7675, 3.732, 5.0756, 3.2864, 4.0397, 3.1317, 4.0443),
    *(2.9249, 3.9454, 3.0988, 4.2489, 3.4896, 3.8513, 3.9323, 3.4719, 3.7498, 4.283),
    *(3.5694, 4.2467, 3.9037, 3.2947, 5.077, 3.5075, 3.27, 3.4767, 2.8063, 5.1125),
    *(3.5327, 4.7833, 3.1286, 4.1819, 3.8527, 3.8312, 3.5605, 4.3875, 3.9624, 4.0168),
    *(3.5643, 4.055, 5.5614, 4.2963, 4.408, 3.4959, 3.8747, 3.7608, 3.5735, 3.149),
    *(3.7662, 3.6746, 3.4563, 3.8161),
]
_MARK = "decoder.upsamples.0.upsamples.0.residual.2.weight"  # in the names of Wan 2.2's code, which ComfyUI has too
_DIFFUSERS_MARK = "decoder.up_blocks.0.upsampler.resample.1.weight"
_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
_RULES = [
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
        (
            r"^encoder\.downsamples\.(\d+)\.downsamples\.\d+\.(?=resample|time_conv)",
            r"encoder.down_blocks.\1.downsampler.",
        ),
        (r"^encoder\.downsamples\.(\d+)\.downsamples\.", r"encoder.down_blocks.\1.resnets."),
        (r"^decoder\.upsamples\.(\d+)\.upsamples\.\d+\.(?=resample|time_conv)", r"decoder.up_blocks.\1.upsampler."),
        (r"^decoder\.upsamples\.(\d+)\.upsamples\.", r"decoder.up_blocks.\1.resnets."),
        (r"\.residual\.0\.", ".norm1."),
        (r"\.residual\.2\.", ".conv1."),
        (r"\.residual\.3\.", ".norm2."),
        (r"\.residual\.6\.", ".conv2."),
        (r"\.shortcut\.", ".conv_shortcut."),
    )
]


def find_vae(names: Iterable[str]) -> dict[str, Place]:
    """The places of the VAE's tensors, by the names of Wan 2.2's code or by diffusers'; those of Wan 2.2 itself too."""
    names = list(names)
    bare = bare_names(names, _DIFFUSERS_MARK)
    if not bare:
        bare = {renamed(name, _RULES): theirs for name, theirs in bare_names(names, _MARK).items()}
    return {ours: Place(theirs) for ours, theirs in bare.items() if ours.startswith(_PARTS)}


def vae_config(shapes: Shapes) -> dict[str, Any]:
    """The config of an AutoencoderKLQwenImage21.

    Raises:
        UnusualShapesError: it is of no published form; the VAE of Wan 2.2, which has the same names, is none.
    """
    try:
        base, channels = shapes["encoder.conv_in.weight"][:2]
        made, decoder_base = shapes["decoder.conv_out.weight"][:2]
        latents, levels = shapes["post_quant_conv.weight"][0], count_of(shapes, "encoder.down_blocks")
        widths = [shapes[f"encoder.down_blocks.{level}.resnets.0.conv1.weight"][0] for level in range(levels)]
        halves_time = [f"encoder.down_blocks.{level}.downsampler.time_conv.weight" in shapes for level in range(levels)]
        sizes = {
            "base_dim": base,
            "decoder_base_dim": decoder_base,
            "z_dim": latents,
            "dim_mult": [width // base for width in widths],
            "num_res_blocks": count_of(shapes, "encoder.down_blocks.0.resnets"),
            "temperal_downsample": halves_time[:-1],
        }
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise UnusualShapesError from error
    if latents != len(_MEANS) or {channels, made} != {PICTURE_CHANNELS} or 2 ** (levels - 1) != FACTOR:
        raise UnusualShapesError
    return {
        **sizes,
        "in_channels": channels,
        "out_channels": made,
        "is_residual": True,
        "attn_scales": [],
        "dropout": 0.0,
        "patch_size": None,
        "scale_factor_spatial": FACTOR,
        "scale_factor_temporal": 8,
        "latents_mean": _MEANS,
        "latents_std": _DEVIATIONS,
    }
