"""The frozen names are those published, and are files of their own."""

import hashlib

import pytest
import torch
from diffusers import UNet2DConditionModel

from lorasmith.demo.layouts import LAYOUTS, unet_config
from lorasmith.exporting import key_tables
from lorasmith.exporting.key_tables import key_table, module_name

PUBLISHED = [
    ("denoiser", "sd15_unet.txt", 192, "f8c8f334e2e0607c1193ab29e2dc20d1987e8d15cf4cb8f27056de5125f33198"),
    ("text_encoder", "sd15_text_encoder.txt", 72, "dba0564f7193eb83b6e8623967c2430f768b4d399da04c2311abae861fea19d6"),
]


@pytest.mark.parametrize(("component", "file", "count", "sha256"), PUBLISHED)
def test_names_are_the_published_ones(component: str, file: str, count: int, sha256: str) -> None:
    names = sorted(key_table("sd15").names[component])
    assert len(names) == count
    assert hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest() == sha256
    assert hashlib.sha256((key_tables._TABLES / file).read_bytes()).hexdigest() == sha256


def test_layers_lead_back_to_their_names() -> None:
    table = key_table("sd15")
    for name, layer in table.layers.items():
        component, path = layer.name.split(".", 1)
        assert component == layer.component
        assert module_name(table.prefixes[component], path) == name
        assert name in table.names[component]


def test_only_projections_of_the_unet_are_convolutions() -> None:
    convolutions = {name for name, layer in key_table("sd15").layers.items() if layer.kind == "conv1x1"}
    assert len(convolutions) == 32
    assert all(name.endswith(("_proj_in", "_proj_out")) and name.startswith("lora_unet_") for name in convolutions)


def test_sizes_are_those_of_the_real_model() -> None:
    layers = key_table("sd15").layers
    feed_forward = layers["lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj"]
    assert feed_forward.weight_shape() == (10240, 1280)
    assert layers["lora_unet_up_blocks_3_attentions_2_proj_out"].weight_shape() == (320, 320, 1, 1)
    attended = layers["lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"]
    assert attended.weight_shape() == (640, 768)
    assert layers["lora_te_text_model_encoder_layers_11_mlp_fc2"].weight_shape() == (768, 3072)
    # the size people know of files with rank 128 in half precision: 144 MiB
    assert sum(layer.inputs + layer.outputs for layer in layers.values()) * 128 * 2 == 144 * 2**20


def test_sizes_are_those_diffusers_builds() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(unet_config(LAYOUTS["sd15"]))
    layers = [layer for layer in key_table("sd15").layers.values() if layer.component == "denoiser"]
    for layer in layers:
        assert tuple(unet.get_submodule(layer.name.removeprefix("denoiser.")).weight.shape) == layer.weight_shape()
