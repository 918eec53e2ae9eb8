"""What the footprints of flow matching have in common: encoders counted by their own libraries' classes."""

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage, AutoencoderKLQwenImage21
from transformers import Qwen3Config, Qwen3Model

from lorasmith.families.flow_footprint import (
    Blocks,
    language_parameters,
    qwen_vae_parameters,
    transformer_footprint,
)
from lorasmith.families.footprint import kl_parameters
from lorasmith.families.qwen_image21.footprint import VAE_PARAMETERS

KL = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 16,
}


def parameters_of(kind: Any, **config: Any) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in kind(**config).parameters())


def test_the_published_vaes() -> None:
    assert kl_parameters(KL) == pytest.approx(parameters_of(AutoencoderKL, **KL), rel=0.01)
    assert kl_parameters(KL) == pytest.approx(parameters_of(AutoencoderKLFlux2), rel=0.01)
    assert qwen_vae_parameters({}) == pytest.approx(parameters_of(AutoencoderKLQwenImage), rel=0.01)
    found = parameters_of(AutoencoderKLQwenImage21)
    assert qwen_vae_parameters({"base_dim": 96}, VAE_PARAMETERS) == pytest.approx(found, rel=0.01)


def test_a_language_model() -> None:
    config = {
        "hidden_size": 1024,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
        "vocab_size": 151_936,
    }
    with torch.device("meta"):
        model = Qwen3Model(Qwen3Config(**config))
    assert language_parameters(config) == pytest.approx(sum(one.numel() for one in model.parameters()), rel=0.01)


def test_blocks_of_two_kinds() -> None:
    kinds = [Blocks(2, inside=100, wide=40, products=7), Blocks(3, inside=60, products=5)]
    sizes = {"parameters": 0, "width": 8, "table_width": 16, "largest_layer": 1}
    found = transformer_footprint(kinds, **sizes, end=4)
    kept = {"none": 384, "elementwise": 44 + 232, "feed-forward": 304, "selective": 44 + 80, "block": 44, "offload": 4}
    assert found.kept == {level: count / 4 for level, count in kept.items()}
    twice = dict.fromkeys(("elementwise", "selective", "block", "offload"), 50)
    assert found.computed == {"none": 25, "feed-forward": 25, **twice}
    assert found.relative_width == 0.5
