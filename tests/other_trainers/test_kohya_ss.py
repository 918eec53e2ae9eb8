"""The fields are those of published presets of kohya_ss, with other values."""

from typing import Any

import pytest

from lorasmith.errors import ConfigError
from lorasmith.other_trainers.imported import LeftOut
from lorasmith.other_trainers.kohya_ss import from_kohya_ss, is_kohya_ss

FORM: dict[str, Any] = {
    "LoRA_type": "Standard",
    "additional_parameters": "",
    "bucket_no_upscale": True,
    "bucket_reso_steps": 64.0,
    "cache_latents": True,
    "caption_extension": ".txt",
    "clip_skip": "2",
    "conv_alpha": 4,
    "conv_dim": 8,
    "decompose_both": False,
    "enable_bucket": True,
    "epoch": 12,
    "gradient_accumulation_steps": "2",
    "keep_tokens": "1",
    "learning_rate": "0.0002",
    "lr_scheduler": "cosine",
    "lr_warmup": 0,
    "max_resolution": "512,512",
    "max_token_length": "75",
    "max_train_epochs": "",
    "max_train_steps": "",
    "min_snr_gamma": 5,
    "mixed_precision": "bf16",
    "multires_noise_iterations": 6,
    "network_alpha": 8,
    "network_dim": 24,
    "noise_offset": "0.05",
    "noise_offset_type": "Original",
    "optimizer": "AdamW8bit",
    "optimizer_args": "weight_decay=0.05",
    "output_dir": "out",
    "output_name": "cat",
    "pretrained_model_name_or_path": "model.safetensors",
    "sample_prompts": "a cat --w 512\n# not this\na dog --d 3",
    "save_every_n_epochs": 2,
    "save_precision": "fp16",
    "sdxl": False,
    "seed": "1234",
    "shuffle_caption": True,
    "stop_text_encoder_training": 0,
    "text_encoder_lr": "5e-05",
    "train_batch_size": 3,
    "train_data_dir": "pictures",
    "unet_lr": 0.0003,
    "xformers": "xformers",
}


def values_of(**changes: Any) -> dict[str, Any]:
    return from_kohya_ss({**FORM, **changes}).checked().values


def test_a_form_is_the_run_that_its_command_line_would_be() -> None:
    assert is_kohya_ss(FORM)
    expected = {
        **{"base_model": "model.safetensors", "data": "pictures", "name": "cat", "epochs": 12, "seed": 1234},
        **{"rank": 24, "alpha": 8.0, "batch_size": 3, "accumulate": 2, "lr_schedule": "cosine", "precision": "bf16"},
        **{
            "lr": 3e-4,
            "text_encoder_lr": [5e-5],
            "train_text_encoder": True,
            "optimizer_option": {"weight_decay": 0.05},
        },
        **{
            "resolution": 512,
            "bucket_step": 64,
            "bucket_no_upscale": True,  # which leaves no choice to `bucket_rule`
            "clip_skip": 2,
        },
        **{"caption_extension": ".txt", "shuffle_caption": True, "keep_tokens": 1, "min_snr_gamma": 5.0},
        **{"noise_offset": 0.05, "save_every_n_epochs": 2, "save_every": 0},
        **{"sample_prompt": ["a cat --w 512", "a dog --d 3"]},
    }
    found = values_of()
    assert {key: found.get(key) for key in expected} == expected
    assert found["optimizer"].lower() == "adamw8bit"
    assert "conv_rank" not in found and "multires_noise_iterations" not in found
    assert from_kohya_ss(FORM).left_out == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"LoRA_type": "Kohya LoCon"}, {"adapter": None, "conv_rank": 8, "conv_alpha": 4.0}),
        ({"LoRA_type": "LyCORIS/LoHa", "LyCORIS_preset": "full"}, {"adapter": "loha", "conv_rank": 8}),
        ({"LoRA_type": "LyCORIS/LoKr", "factor": 8, "decompose_both": True}, {"adapter": "lokr", "lokr_factor": 8}),
        (
            {"LoRA_type": "LyCORIS/LoKr", "network_dim": 100000, "conv_dim": 100000},
            {"lokr_full_matrix": True, "rank": None, "alpha": None, "conv_rank": None},
        ),
        ({"noise_offset_type": "Multires"}, {"noise_offset": None, "multires_noise_iterations": 6}),
        ({"text_encoder_lr": 0}, {"train_text_encoder": None, "lr": 3e-4}),
        ({"unet_lr": 0}, {"network_train_text_encoder_only": True}),
        ({"max_train_steps": 500}, {"steps": 500, "epochs": None}),
        ({"max_train_steps": "500", "max_train_epochs": "3"}, {"steps": None, "epochs": 3}),
        ({"max_train_steps": 500, "lr_warmup": 10}, {"lr_warmup": 50}),
        ({"max_token_length": "225"}, {"max_token_length": 225}),
    ],
)
def test_what_the_form_makes_of_its_fields(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    found = values_of(**changes)
    assert {key: found.get(key) for key in expected} == expected


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"additional_parameters": "--foo"}, LeftOut("additional_parameters", "--foo", "no_counterpart")),
        ({"stop_text_encoder_training": 30}, LeftOut("stop_text_encoder_training", 30, "no_counterpart")),
        ({"log_with": "wandb"}, LeftOut("log_with", "wandb", "refused")),
        ({"mixed_precision": "fp12"}, LeftOut("mixed_precision", "fp12", "value")),
        ({"lr_warmup": 10}, LeftOut("lr_warmup", "10%", "share_of_steps")),
        (
            {"LoRA_type": "LyCORIS/LoHa", "use_tucker": True},
            LeftOut("network_args.use_tucker", "True", "refused"),
        ),
    ],
)
def test_what_has_no_counterpart_is_named(changes: dict[str, Any], left: LeftOut) -> None:
    found = from_kohya_ss({**FORM, **changes}).checked()
    assert found.left_out == [left]
    assert found.values["rank"] == 24


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"lumina_checkbox": True}, "import_other_model"),
        ({"sd3_checkbox": True}, "import_other_model"),
        ({"LoRA_type": "LyCORIS/iA3"}, "import_adapter"),
        ({"LoRA_type": "Flux1 OFT", "flux1_checkbox": True}, "import_adapter"),
    ],
)
def test_what_cannot_be_trained_here_is_refused(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_kohya_ss({**FORM, **changes})
    assert caught.value.code == code


FLUX: dict[str, Any] = {
    **FORM,
    **{"LoRA_type": "Flux1", "flux1_checkbox": True, "clip_l": "clip_l.safetensors", "t5xxl": "t5.safetensors"},
    **{"ae": "ae.safetensors", "apply_t5_attn_mask": True, "discrete_flow_shift": 3, "fp8_base": True},
    **{"flux1_cache_text_encoder_outputs": True, "guidance_scale": 1, "model_prediction_type": "raw"},
    **{"split_mode": False, "split_qkv": False, "t5xxl_max_token_length": 512, "timestep_sampling": "sigmoid"},
    **{"train_blocks": "all", "text_encoder_lr": 0, "clip_skip": 1, "blocks_to_swap": 19, "weighting_scheme": "mode"},
}


def test_a_form_for_flux() -> None:
    found = from_kohya_ss(FLUX)
    expected = {
        **{"text_encoder": ["clip_l.safetensors", "t5.safetensors"], "vae": "ae.safetensors", "base_offload": 0.5},
        **{"base_precision": "fp8", "timestep_density": "logit-normal", "timestep_shift": 1.0, "base_form": "base"},
        "targets": r"denoiser\.(transformer_blocks\.|single_transformer_blocks\.)",
    }
    assert {key: found.values.get(key) for key in expected} == expected
    assert "train_text_encoder" not in found.checked().values
    assert [left.name for left in found.left_out] == ["apply_t5_attn_mask"]
    assert {code for code, _ in found.notes} == {"sd_split_qkv", "sd_ignored_for_flow"}
    lycoris = from_kohya_ss({**FLUX, "LoRA_type": "LyCORIS/LoKr", "LyCORIS_preset": "attn-mlp"})
    assert (lycoris.values["adapter"], lycoris.values["targets"]) == ("lokr", expected["targets"])
    single = from_kohya_ss({**FLUX, "train_blocks": "single", "text_encoder_lr": 1e-5})
    assert single.values["targets"] == r"denoiser\.(single_transformer_blocks\.)"
    assert [left.name for left in single.left_out] == ["text_encoder_lr", "apply_t5_attn_mask"]


def test_a_form_for_anima() -> None:
    anima = {
        **FORM,
        **{
            "LoRA_type": "Anima",
            "anima_checkbox": True,
            "anima_qwen3": "qwen.safetensors",
            "anima_vae": "v.safetensors",
        },
        **{"anima_discrete_flow_shift": 2.0, "anima_timestep_sampling": "shift", "anima_sigmoid_scale": 1.5},
        **{"timestep_sampling": "flux_shift", "clip_l": "not.this", "anima_attn_mode": "torch", "clip_skip": 1},
    }
    found = from_kohya_ss(anima)
    expected = {
        **{"text_encoder": ["qwen.safetensors"], "vae": "v.safetensors", "timestep_density": "logit-normal"},
        **{"timestep_shift": 2.0, "logit_std": 1.5},
    }
    assert {key: found.values.get(key) for key in expected} == expected
    assert [left.name for left in found.left_out] == ["text_encoder_lr"]
