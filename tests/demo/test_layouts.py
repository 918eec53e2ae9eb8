"""Names in the original layout, at the depth of the real model."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from lorasmith.demo import layouts
from lorasmith.demo.layouts import LAYOUTS
from lorasmith.demo.sdxl_layout import sdxl_configs


@pytest.mark.parametrize("size", ["narrow", "sd15"])
def test_ldm_names_of_the_full_depth_are_all_different_and_in_range(size: layouts.ModelSize) -> None:
    config = layouts.unet_config(LAYOUTS[size])
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    names = [layouts.ldm_unet_name(name, config) for name in unet.state_dict()]
    assert len(set(names)) == len(names) == 686
    assert {"input_blocks.11.0.out_layers.3.weight", "output_blocks.11.1.proj_out.weight"} <= set(names)
    assert {"output_blocks.2.1.conv.weight", "output_blocks.8.2.conv.weight", "input_blocks.9.0.op.bias"} <= set(names)
    if size == "sd15":
        assert sum(p.numel() for p in unet.parameters()) == 859_520_964


def test_ldm_names_of_the_vae() -> None:
    config = layouts.vae_config(LAYOUTS["sd15"])
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(config)
    names = {layouts.ldm_vae_name(name, config) for name in vae.state_dict()}
    assert len(names) == len(vae.state_dict()) == 248
    assert {"decoder.up.3.upsample.conv.weight", "encoder.down.0.downsample.conv.bias", "quant_conv.weight"} <= names
    assert {"encoder.mid.attn_1.proj_out.weight", "decoder.up.0.block.0.nin_shortcut.weight"} <= names
    assert {"decoder.mid.block_2.norm1.weight", "encoder.norm_out.bias"} <= names
    assert not any("blocks" in name or "resnets" in name for name in names)


def test_text_encoder_is_that_of_clip_large() -> None:
    shapes = layouts.text_shapes(layouts.text_config(LAYOUTS["sd15"], 49408))
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 123_060_480


def test_ldm_names_of_sdxl() -> None:
    config = sdxl_configs("sdxl", 49_408)["unet"]
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    names = {layouts.ldm_unet_name(name, config) for name in unet.state_dict()}
    assert len(names) == len(unet.state_dict()) == 1680
    assert sum(p.numel() for p in unet.parameters()) == 2_567_463_684
    assert {"label_emb.0.0.weight", "middle_block.1.transformer_blocks.9.norm1.bias"} <= names
    assert {"output_blocks.2.2.conv.weight", "input_blocks.3.0.op.weight", "input_blocks.8.1.proj_in.weight"} <= names
