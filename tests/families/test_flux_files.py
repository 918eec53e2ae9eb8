"""FLUX.1's VAE in a file of its own, by both of its namings."""

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from lorasmith.demo import layouts
from lorasmith.families.flux_files import find_flux_vae, flux_vae_config
from lorasmith.families.ldm_configs import UnusualShapesError
from lorasmith.families.places import shapes_at

CONFIG: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "latent_channels": 16,
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "sample_size": 1024,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


def published(**changes: Any) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(one.shape) for name, one in AutoencoderKL(**{**CONFIG, **changes}).state_dict().items()}


def original(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The names of latent-diffusion's code, whose attention has 1x1 convolutions."""
    named = {layouts.ldm_vae_name(name, CONFIG): shape for name, shape in shapes.items()}
    return {name: (*shape, 1, 1) if ".attn_1." in name and len(shape) == 2 else shape for name, shape in named.items()}


@pytest.mark.parametrize("prefix", ["", "vae.", "first_stage_model."])
@pytest.mark.parametrize("naming", ["original", "diffusers"])
def test_both_namings_have_the_tensors_and_the_config_of_the_class(prefix: str, naming: str) -> None:
    shapes = published()
    named = original(shapes) if naming == "original" else shapes
    stored = {prefix + name: shape for name, shape in named.items()}
    found = shapes_at(find_flux_vae([*stored, "cap_pad_token"]), stored)
    assert found == shapes
    config = flux_vae_config(found)
    assert {name: config[name] for name in CONFIG} == CONFIG
    with torch.device("meta"):
        built = AutoencoderKL.from_config(config)
    assert {name: tuple(one.shape) for name, one in built.state_dict().items()} == shapes


@pytest.mark.parametrize(
    "changes",
    [
        {"latent_channels": 4, "use_quant_conv": True, "use_post_quant_conv": True},
        {"latent_channels": 16, "use_quant_conv": True, "use_post_quant_conv": True},
        {"latent_channels": 32},
    ],
)
def test_other_vaes_with_these_names_are_none(changes: dict[str, Any]) -> None:
    """Those of Stable Diffusion and of FLUX.2."""
    with pytest.raises(UnusualShapesError):
        flux_vae_config(published(**changes))


def test_other_files_have_none() -> None:
    assert find_flux_vae(["decoder.conv1.weight", "encoder.conv1.weight", "cap_pad_token"]) == {}
    with pytest.raises(UnusualShapesError):
        flux_vae_config({"decoder.conv_in.weight": (512, 16, 3, 3)})
