import pytest

from lorasmith.lora_files.keys import split_key

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
FLAT = ATTENTION.replace(".", "_")
TEXT = "text_model.encoder.layers.3.self_attn"
SPELLINGS = {
    f"lora_unet_{FLAT}_to_q.lora_down.weight": ("kohya", "denoiser", f"{FLAT}_to_q", "lora_down.weight"),
    f"lora_te_{TEXT.replace('.', '_')}_q_proj.alpha": ("kohya", "text_encoder", f"{TEXT}.q_proj", "alpha"),
    "lora_te2_x_fc1.hada_w1_a": ("kohya", "text_encoder_2", "x_fc1", "hada_w1_a"),
    f"lycoris_{FLAT}_to_q.lokr_w1": ("lycoris", "denoiser", f"{FLAT}_to_q", "lokr_w1"),
    f"unet.{ATTENTION}.to_out.0.lora_B.weight": ("diffusers", "denoiser", f"{FLAT}_to_out_0", "lora_up.weight"),
    f"unet.{ATTENTION}.to_q.lora.up.weight": ("diffusers_old", "denoiser", f"{FLAT}_to_q", "lora_up.weight"),
    f"unet.{ATTENTION}.processor.to_out_lora.up.weight": (
        *("diffusers_old", "denoiser", f"{FLAT}_to_out_0", "lora_up.weight"),
    ),
    f"{ATTENTION}.processor.to_q_lora.down.weight": (
        *("diffusers_old", "denoiser", f"{FLAT}_to_q", "lora_down.weight"),
    ),
    f"text_encoder.{TEXT}.to_out_lora.down.weight": (
        *("diffusers_old", "text_encoder", f"{TEXT}.out_proj", "lora_down.weight"),
    ),
    f"text_encoder.{TEXT}.q_proj.lora_linear_layer.up.weight": (
        *("diffusers_old", "text_encoder", f"{TEXT}.q_proj", "lora_up.weight"),
    ),
    f"base_model.model.{ATTENTION}.to_q.lora_A.weight": ("peft", "denoiser", f"{FLAT}_to_q", "lora_down.weight"),
    f"base_model.model.{TEXT}.q_proj.lora_A.weight": ("peft", "text_encoder", f"{TEXT}.q_proj", "lora_down.weight"),
    f"base_model.model.{ATTENTION}.to_q.lora_magnitude_vector": ("peft", "denoiser", f"{FLAT}_to_q", "dora_scale"),
    f"{ATTENTION}.to_q.lora_A.weight": ("bare", "denoiser", f"{FLAT}_to_q", "lora_down.weight"),
    f"lora_te1.{TEXT}.q_proj.lora_up.weight": ("onetrainer", "text_encoder", f"{TEXT}.q_proj", "lora_up.weight"),
    "unet.input_blocks.4.1.proj_in.lora_up.weight": ("omi", "denoiser", "input_blocks_4_1_proj_in", "lora_up.weight"),
    f"clip_g.{TEXT}.q_proj.dora_scale": ("omi", "text_encoder_2", f"{TEXT}.q_proj", "dora_scale"),
    "diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight": (
        *("comfyui", "denoiser", "double_blocks_0_img_attn_qkv", "lora_down.weight"),
    ),
}


@pytest.mark.parametrize("key", SPELLINGS)
def test_every_spelling_names_its_layer(key: str) -> None:
    found = split_key(key)
    naming, component, path, suffix = SPELLINGS[key]
    assert found is not None
    assert (found.naming, found.component, found.path, found.suffix) == (
        *(naming, component, path.replace(".", "_"), suffix),
    )
    assert key.startswith(found.module)


@pytest.mark.parametrize("key", ["bundle_emb.word.weights", "cond_stage_model.logit_scale", "", "x.lora_up.bias_"])
def test_other_keys_are_of_no_adapter(key: str) -> None:
    assert split_key(key) is None
