"""Files of FLUX.2's VAE without a folder around them: names, and the config from shapes.

Numbers that shapes do not tell are those of the published config. Needs no torch and reads no file. Knows no family.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lorasmith.families.flux_files import find_flux_vae
from lorasmith.families.ldm_configs import UnusualShapesError
from lorasmith.families.ldm_names import count_of
from lorasmith.families.places import Place
from lorasmith.families.weights import Shapes

USUAL_NAME = r"flux[-_. ]?2"
"""A pattern of its usual names: `flux2-vae.safetensors`."""
COUNTER = "bn.num_batches_tracked"
"""A tensor of the VAE's own training, which nothing asks."""
_MEANS = "bn.running_mean"
_LATENTS, _PATCHES = 32, 4
_INSIDE = {"encoder.quant_conv.": "quant_conv.", "decoder.post_quant_conv.": "post_quant_conv."}  # in original files
_PUBLISHED = {
    "act_fn": "silu",
    "batch_norm_eps": 1e-4,
    "batch_norm_momentum": 0.1,
    "in_channels": 3,
    "mid_block_add_attention": True,
    "norm_num_groups": 32,
    "out_channels": 3,
    "patch_size": [2, 2],
    "sample_size": 1024,
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}


def find_flux2_vae(names: Iterable[str]) -> dict[str, Place]:
    """The places of the VAE's tensors, by the names of the published checkpoint or by diffusers'."""
    found = {_outside(name): place for name, place in find_flux_vae(names).items() if name != COUNTER}
    return found if _MEANS in found else {}


def flux2_vae_config(shapes: Shapes) -> dict[str, Any]:
    """The config of an AutoencoderKLFlux2.

    Raises:
        UnusualShapesError: it is of no published form.
    """
    try:
        levels = count_of(shapes, "encoder.down_blocks")
        encoder, decoder = (
            [shapes[f"{stem}.{level}.resnets.0.conv1.weight"][0] for level in range(levels)]
            for stem in ("encoder.down_blocks", "decoder.up_blocks")
        )
        sizes: dict[str, Any] = {
            "latent_channels": shapes["decoder.conv_in.weight"][1],
            "block_out_channels": encoder,
            "layers_per_block": count_of(shapes, "encoder.down_blocks.0.resnets"),
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
        }
        channels = shapes[_MEANS][0]
    except (KeyError, IndexError) as error:
        raise UnusualShapesError from error
    if sizes["latent_channels"] != _LATENTS or channels != _LATENTS * _PATCHES:
        raise UnusualShapesError
    if decoder[::-1] != encoder:  # the small decoder
        sizes["decoder_block_out_channels"] = decoder[::-1]
    return {**_PUBLISHED, **sizes}


def _outside(name: str) -> str:
    found: Mapping[str, str] = {old: new for old, new in _INSIDE.items() if name.startswith(old)}
    return next((new + name.removeprefix(old) for old, new in found.items()), name)
