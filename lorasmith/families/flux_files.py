"""Files of FLUX.1's VAE without a folder around them, which other families have too: names, and the config from shapes.

Numbers that shapes do not tell are those of the published config. Needs no torch and reads no file. Knows no family.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from lorasmith.families.ldm_configs import UnusualShapesError
from lorasmith.families.ldm_names import count_of, vae_names
from lorasmith.families.places import Place
from lorasmith.families.weights import Shapes

USUAL_NAME = r"^ae\b|flux(?!.?2)"
"""A pattern of its usual names: `ae.safetensors`."""
_LATENTS = 16
_PREFIXES = ("first_stage_model.", "vae.", "")
_MARK = "decoder.conv_in.weight"
_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "bn.")
_LINEAR = re.compile(r"\.attentions\.0\.to_(q|k|v|out\.0)\.weight$")  # in original files 1x1 convolutions
_PUBLISHED = {
    "act_fn": "silu",
    "force_upcast": True,
    "in_channels": 3,
    "latents_mean": None,
    "latents_std": None,
    "mid_block_add_attention": True,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 1024,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
}


def find_flux_vae(names: Iterable[str]) -> dict[str, Place]:
    """The places of the VAE's tensors, by the names of latent-diffusion's code or by diffusers'."""
    names = set(names)
    prefix = next((prefix for prefix in _PREFIXES if prefix + _MARK in names), None)
    found: Mapping[str, str] = {} if prefix is None else vae_names(names, prefix)
    return {
        ours: Place(theirs, is_matrix=bool(_LINEAR.search(ours)))
        for ours, theirs in sorted(found.items())
        if ours.startswith(_PARTS)
    }


def flux_vae_config(shapes: Shapes) -> dict[str, Any]:
    """The config of an AutoencoderKL.

    Raises:
        UnusualShapesError: it is another VAE: those of Stable Diffusion 1.x to 3 and of FLUX.2 have the same names.
    """
    try:
        levels = count_of(shapes, "encoder.down_blocks")
        sizes = {
            "latent_channels": shapes[_MARK][1],
            "block_out_channels": [
                shapes[f"encoder.down_blocks.{level}.resnets.0.conv1.weight"][0] for level in range(levels)
            ],
            "layers_per_block": count_of(shapes, "encoder.down_blocks.0.resnets"),
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
        }
    except (KeyError, IndexError) as error:
        raise UnusualShapesError from error
    if sizes["latent_channels"] != _LATENTS or any(name.startswith(("post_quant_conv.", "bn.")) for name in shapes):
        raise UnusualShapesError
    return {**_PUBLISHED, **sizes}
