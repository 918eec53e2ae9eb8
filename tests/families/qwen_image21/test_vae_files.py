"""The VAE's file: names and config against the library's own class at its published size."""

import pytest
import torch
from diffusers import AutoencoderKLQwenImage, AutoencoderKLQwenImage21, AutoencoderKLWan
from torch import Tensor

from lorasmith.families.ldm_configs import UnusualShapesError
from lorasmith.families.places import shapes_at
from lorasmith.families.qwen_files import find_qwen_vae, qwen_vae_config
from lorasmith.families.qwen_image21.vae_files import find_vae, vae_config
from tests.families.qwen_image21.miniature import original_vae

LAYERS = 2


def vae() -> AutoencoderKLQwenImage21:
    with torch.device("meta"):
        return AutoencoderKLQwenImage21()


def shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@pytest.mark.parametrize("prefix", ["", "vae."])
def test_the_names_of_comfyuis_file_lead_to_the_tensors(prefix: str) -> None:
    """Three of these names and shapes are those of the published file, as programs that read it test them."""
    tensors = vae().state_dict()
    original = {prefix + name: tensor for name, tensor in original_vae(tensors, LAYERS).items()}
    assert len(original) == len(tensors)
    stored = shapes(original)
    assert stored[f"{prefix}conv1.weight"] == (128, 128, 1, 1, 1)
    assert stored[f"{prefix}decoder.head.2.weight"] == (4, 144, 1, 3, 3)
    assert stored[f"{prefix}decoder.upsamples.0.upsamples.0.residual.2.weight"] == (1152, 1152, 1, 3, 3)
    places = find_vae([*stored, "txt_in.text_norm.weight"] if prefix else stored)
    assert places.keys() == tensors.keys()
    for name, tensor in tensors.items():
        found = original[places[name].name]
        assert (found.squeeze(2) if found.ndim == 5 else found).shape == tensor.shape
    assert {name: place.name for name, place in find_vae(tensors).items()} == {name: name for name in tensors}


def test_the_config_follows_from_the_shapes_of_the_published_model() -> None:
    """The class's own config is the published one."""
    published = {name: value for name, value in vae().config.items() if not name.startswith("_")}
    assert vae_config(shapes(vae().state_dict())) == published
    original = shapes(original_vae(vae().state_dict(), LAYERS))
    assert vae_config(shapes_at(find_vae(original), original)) == published


def test_other_vaes_are_none_of_it_and_it_is_none_of_theirs() -> None:
    """Wan 2.2's has the same names, that of Qwen-Image similar ones."""
    with torch.device("meta"):
        wan = AutoencoderKLWan(
            base_dim=160,
            decoder_base_dim=256,
            z_dim=48,
            dim_mult=[1, 2, 4, 4],
            is_residual=True,
            in_channels=12,
            out_channels=12,
            patch_size=2,
        ).state_dict()
        older = AutoencoderKLQwenImage().state_dict()
    found = find_vae(wan)
    assert found
    with pytest.raises(UnusualShapesError):
        vae_config(shapes(wan))
    assert find_vae(older) == {}
    ours = shapes(original_vae(vae().state_dict(), LAYERS))
    with pytest.raises(UnusualShapesError):
        qwen_vae_config(shapes_at(find_qwen_vae(ours), ours))
    with pytest.raises(UnusualShapesError):
        vae_config({})
