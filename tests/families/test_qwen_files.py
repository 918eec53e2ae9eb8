"""Files of Qwen's language models and VAE: their names against the libraries' own classes and conversions."""

import pytest
import torch
from diffusers import AutoencoderKLQwenImage
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

from lorasmith.families.ldm_configs import UnusualShapesError
from lorasmith.families.places import shapes_at
from lorasmith.families.qwen_files import (
    find_qwen3,
    find_qwen3_vl,
    find_qwen_vae,
    qwen3_config,
    qwen3_vl_config,
    qwen_vae_config,
)
from lorasmith.families.qwen_text import qwen3_builder, qwen3_vl_builder
from tests.families.qwen_miniature import language_shapes, original_vae_name

EYES = ("visual.patch_embed.proj.weight",)


def vae() -> AutoencoderKLQwenImage:
    with torch.device("meta"):
        return AutoencoderKLQwenImage()


def test_the_vaes_original_names_lead_to_the_tensors_that_diffusers_makes_of_them() -> None:
    tensors = vae().state_dict()
    original = {original_vae_name(name, 2): tensor for name, tensor in tensors.items()}
    assert len(original) == len(tensors)
    converted = convert_wan_vae_to_diffusers(dict(original))
    assert converted.keys() == tensors.keys() and all(converted[name] is tensors[name] for name in tensors)
    for prefix in ("", "vae."):
        places = find_qwen_vae([*(prefix + name for name in original), "txtfusion.projector.weight"])
        assert {name: place.name for name, place in places.items()} == {
            name: prefix + original_vae_name(name, 2) for name in tensors
        }
    assert {name: place.name for name, place in find_qwen_vae(tensors).items()} == {name: name for name in tensors}


def test_the_vaes_config_follows_from_its_shapes() -> None:
    """The class's own config is the published one."""
    published = {name: value for name, value in vae().config.items() if not name.startswith("_")}
    shapes = {name: tuple(tensor.shape) for name, tensor in vae().state_dict().items()}
    assert qwen_vae_config(shapes) == published
    with torch.device("meta"):
        wan = AutoencoderKLQwenImage(base_dim=160, z_dim=48)  # as Wan 2.2 has
    with pytest.raises(UnusualShapesError):
        qwen_vae_config({name: tuple(tensor.shape) for name, tensor in wan.state_dict().items()})
    with pytest.raises(UnusualShapesError):
        qwen_vae_config({})


@pytest.mark.parametrize("prefix", ["", "model.", "language_model.", "model.language_model."])
def test_language_models_under_all_their_names(prefix: str) -> None:
    shapes = language_shapes(layers=2, width=2560)
    stored = {prefix + name: shape for name, shape in shapes.items()} | {"lm_head.weight": (1, 1)}
    assert shapes_at(find_qwen3(stored), stored) == shapes
    assert shapes_at(find_qwen3_vl([*stored, *EYES]), stored) == shapes
    assert not find_qwen3([*stored, *EYES]) and not find_qwen3_vl(stored)
    assert not find_qwen3(["conv1.weight"])


def test_modules_are_built_from_configs_that_follow_from_shapes() -> None:
    shapes = language_shapes(layers=2, width=2560)
    for module in (qwen3_builder()(qwen3_config(shapes)), qwen3_vl_builder()(qwen3_vl_config(shapes))):
        assert {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()} == shapes


def test_configs_are_the_published_ones() -> None:
    """Of Qwen3-4B and Qwen3-VL-4B, whose shapes are the same."""
    shapes = language_shapes(layers=36, width=2560)
    sizes = {
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151_936,
        "rms_norm_eps": 1e-6,
        "attention_bias": False,
        "hidden_act": "silu",
    }
    text, seeing = qwen3_config(shapes), qwen3_vl_config(shapes)["text_config"]
    assert sizes.items() <= text.items() and sizes.items() <= seeing.items()
    assert text["rope_parameters"]["rope_theta"] == 1e6 and seeing["rope_parameters"]["rope_theta"] == 5e6
    with pytest.raises(UnusualShapesError):
        qwen3_config({**shapes, "layers.0.self_attn.q_norm.weight": (64,)})
    with pytest.raises(UnusualShapesError):
        qwen3_vl_config({})
