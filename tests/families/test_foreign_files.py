"""Files of weights that are no base model are named for what they are."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lorasmith.errors import ModelError
from lorasmith.families import load_family
from lorasmith.families.recognize import recognize

KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "a LoRA": ({"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (4, 8)}, "model_is_lora"),
    "a VAE": ({"encoder.conv_in.weight": (8, 3, 3, 3), "decoder.up.0.block.0.conv1.weight": (8, 8)}, "model_is_vae"),
    "a VAE as in a checkpoint": ({"first_stage_model.decoder.conv_in.weight": (8, 4, 3, 3)}, "model_is_vae"),
    "an embedding": ({"emb_params": (8, 768)}, "model_is_embedding"),
    "an embedding of SDXL": ({"clip_l": (8, 768), "clip_g": (8, 1280)}, "model_is_embedding"),
    "an embedding of diffusers": ({"<cat>": (768,)}, "model_is_embedding"),
    "a ControlNet": ({"control_model.input_blocks.0.0.weight": (8, 4, 3, 3)}, "model_is_controlnet"),
    "a ControlNet of diffusers": ({"controlnet_cond_embedding.conv_in.weight": (8, 3, 3, 3)}, "model_is_controlnet"),
    "an IP-Adapter": ({"image_proj.proj.weight": (8, 8)}, "model_is_adapter"),
    "a T2I-Adapter": ({"body.0.in_conv.weight": (8, 8, 1, 1)}, "model_is_adapter"),
    "a text encoder": ({"text_model.encoder.layers.0.mlp.fc1.weight": (8, 8)}, "model_is_text_encoder"),
    "T5": ({"encoder.block.0.layer.0.SelfAttention.q.weight": (8, 8)}, "model_is_text_encoder"),
    "an upscaler": ({"conv_first.weight": (8, 3, 3, 3), "body.0.rdb1.conv1.weight": (8, 8)}, "model_is_upscaler"),
    "a UNet": ({"down_blocks.0.resnets.0.conv1.weight": (8, 8, 3, 3)}, "model_is_unet"),
    "FLUX": ({"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (8, 8)}, "model_other_family"),
    "FLUX of diffusers": ({"single_transformer_blocks.0.attn.to_q.weight": (8, 8)}, "model_other_family"),
    "SD 3": ({"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (8, 8)}, "model_other_family"),
    "a UNet of SDXL": (
        {"add_embedding.linear_1.weight": (8, 8), "down_blocks.0.resnets.0.conv1.weight": (8, 8, 3, 3)},
        "model_is_unet",
    ),
    "SDXL's refiner": (
        {"conditioner.embedders.0.model.ln_final.bias": (8,), "model.diffusion_model.label_emb.0.0.bias": (8,)},
        "model_refiner",
    ),
    "Playground 2.5": (
        {"edm_mean": (4,), "model.diffusion_model.label_emb.0.0.bias": (8,)},
        "model_edm",
    ),
    "something else": ({"fc.weight": (8, 8)}, "model_unknown"),
}


@pytest.mark.parametrize("what", KINDS)
@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_what_a_file_is(tmp_path: Path, what: str, suffix: str) -> None:
    shapes, code = KINDS[what]
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    path = tmp_path / f"x.{suffix}"
    save_file(tensors, path) if suffix == "safetensors" else torch.save({"state_dict": tensors}, path)
    with pytest.raises(ModelError) as caught:
        load_family(recognize(path))
    assert (caught.value.code, caught.value.fields["path"]) == (code, str(path))


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ({"string_to_token": {"*": 265}, "string_to_param": {"*": torch.zeros(4, 768)}}, "model_is_embedding"),
        ({"params_ema": {"conv_first.weight": torch.zeros(8, 3, 3, 3)}}, "model_is_upscaler"),
    ],
)
def test_pickles_of_other_programs(tmp_path: Path, content: Any, code: str) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ModelError, match=code):
        load_family(recognize(tmp_path / "x.pt"))
