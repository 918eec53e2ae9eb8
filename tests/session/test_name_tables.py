"""The frozen names of the families are those published, with the sizes that the libraries build."""

import hashlib

import pytest
import torch
from diffusers import UNet2DConditionModel

from lorasmith.demo.layouts import LAYOUTS, unet_config
from lorasmith.session.name_tables import name_table
from lorasmith.targets import LayerSpec

# Of the sorted names, a line each.
PUBLISHED = [
    ("denoiser", "lora_unet", 192, "f8c8f334e2e0607c1193ab29e2dc20d1987e8d15cf4cb8f27056de5125f33198"),
    ("text_encoder", "lora_te", 72, "dba0564f7193eb83b6e8623967c2430f768b4d399da04c2311abae861fea19d6"),
]


@pytest.mark.parametrize(("component", "prefix", "count", "sha256"), PUBLISHED)
def test_names_are_the_published_ones(component: str, prefix: str, count: int, sha256: str) -> None:
    rows = [row for row in name_table("sd15").targets.values() if row.component == component]
    names = sorted(row.module for row in rows)
    assert len(names) == count
    assert hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest() == sha256
    for row in rows:
        path = row.target.removeprefix(f"{component}.")
        assert path != row.target and row.module == f"{prefix}_{path.replace('.', '_')}"


def test_every_module_of_sd15_is_a_layer_of_its_own() -> None:
    table = name_table("sd15")
    assert len(table.modules) == len(table.targets) == 264
    assert all(rows == (table.targets[rows[0].target],) and rows[0].module == m for m, rows in table.modules.items())
    assert all(row.part is None for row in table.targets.values())


def test_only_projections_of_the_unet_are_convolutions() -> None:
    convolutions = [row for row in name_table("sd15").targets.values() if row.layer.kernel]
    assert len(convolutions) == 32 and {row.layer.kernel for row in convolutions} == {(1, 1)}
    assert all(row.target.endswith(("proj_in", "proj_out")) and row.component == "denoiser" for row in convolutions)


def test_sizes_are_those_of_the_real_model() -> None:
    table = name_table("sd15")
    layers = {module: rows[0].layer for module, rows in table.modules.items()}
    feed_forward = layers["lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj"]
    assert feed_forward == LayerSpec(10240, 1280)
    assert layers["lora_unet_up_blocks_3_attentions_2_proj_out"].weight_shape == (320, 320, 1, 1)
    assert layers["lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"].weight_shape == (640, 768)
    assert layers["lora_te_text_model_encoder_layers_11_mlp_fc2"].weight_shape == (768, 3072)
    # the size people know of files with rank 128 in half precision: 144 MiB
    assert sum(layer.inputs + layer.outputs for layer in layers.values()) * 128 * 2 == 144 * 2**20


def test_sizes_are_those_diffusers_builds() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(unet_config(LAYOUTS["sd15"]))
    for row in name_table("sd15").targets.values():
        if row.component == "denoiser":
            weight = unet.get_submodule(row.target.removeprefix("denoiser.")).weight
            assert tuple(weight.shape) == row.layer.weight_shape
