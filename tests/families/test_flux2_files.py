"""FLUX.2's VAE in a file of its own, by both of its namings."""

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLFlux2

from lorasmith.families.flux2_files import COUNTER, find_flux2_vae, flux2_vae_config
from lorasmith.families.flux_files import find_flux_vae, flux_vae_config
from lorasmith.families.ldm_configs import UnusualShapesError
from lorasmith.families.places import shapes_at
from tests.families.flux2_klein.miniature import original_vae_name

SMALL = {"decoder_block_out_channels": [96, 192, 384, 384]}


def published(**changes: Any) -> AutoencoderKLFlux2:
    with torch.device("meta"):
        return AutoencoderKLFlux2(**changes)


@pytest.mark.parametrize("changes", [{}, SMALL])
@pytest.mark.parametrize("naming", ["original", "diffusers"])
def test_both_namings_have_the_tensors_and_the_config_of_the_class(naming: str, changes: dict[str, Any]) -> None:
    vae = published(**changes)
    shapes = {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}
    stored = {original_vae_name(name): shape for name, shape in shapes.items()} if naming == "original" else shapes
    stored = {
        name: (*shape, 1, 1) if ".attn_1." in name and len(shape) == 2 else shape for name, shape in stored.items()
    }
    found = shapes_at(find_flux2_vae(stored), stored)
    del shapes[COUNTER]
    assert found == shapes
    config = flux2_vae_config(found)
    built = {name: list(value) if isinstance(value, tuple) else value for name, value in vae.config.items()}
    assert config == {name: built[name] for name in config}
    with pytest.raises(UnusualShapesError):  # of FLUX.1, whose file has the same names
        flux_vae_config(shapes_at(find_flux_vae(stored), stored))


def test_others_are_not_found() -> None:
    vae = published(latent_channels=16)
    shapes = {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}
    with pytest.raises(UnusualShapesError):
        flux2_vae_config(shapes_at(find_flux2_vae(shapes), shapes))
    assert find_flux2_vae([name for name in shapes if not name.startswith("bn.")]) == {}
