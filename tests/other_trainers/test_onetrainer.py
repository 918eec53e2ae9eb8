"""The keys are those of OneTrainer's presets, of the present form and of an older one."""

from typing import Any

import pytest

from lorasmith.errors import ConfigError
from lorasmith.other_trainers.onetrainer import from_onetrainer, is_onetrainer

NOW: dict[str, Any] = {
    "__version": 10,
    "training_method": "LORA",
    "model_type": "STABLE_DIFFUSION_XL_10_BASE",
    "workspace_dir": "workspace/run",
    "base_model_name": "sdxl.safetensors",
    "output_model_destination": "models\\cat.safetensors",
    "output_dtype": "FLOAT_16",
    "train_dtype": "BFLOAT_16",
    "resolution": "1024",
    "aspect_ratio_bucketing": True,
    "learning_rate": 0.0003,
    "learning_rate_scheduler": "COSINE_WITH_RESTARTS",
    "learning_rate_cycles": 3.0,
    "learning_rate_warmup_steps": 200.0,
    "epochs": 20,
    "batch_size": 4,
    "optimizer": {"optimizer": "ADAMW", "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.02, "fused": True},
    "unet": {"train": True, "learning_rate": 0.0002, "weight_dtype": "FLOAT_16"},
    "text_encoder": {"train": True, "learning_rate": 0.0001, "stop_training_after_unit": "NEVER"},
    "text_encoder_2": {"train": False, "learning_rate": None},
    "gradient_checkpointing": "ON",
    "loss_weight_fn": "MIN_SNR_GAMMA",
    "loss_weight_strength": 5.0,
    "max_noising_strength": 0.8,
    "lora_rank": 32,
    "lora_alpha": 16.0,
    "lora_decompose": True,
    "layer_filter_preset": "attn-mlp",
    "save_every": 2,
    "save_every_unit": "EPOCH",
    "backup_after": 30,
    "backup_after_unit": "MINUTE",
    "sample_after": 100,
    "sample_after_unit": "STEP",
    "concepts": [
        {"path": "cat", "balancing": 10.0, "text": {"enable_tag_shuffling": True, "keep_tags_count": 2}, "image": {}},
        {"path": "unused", "enabled": False},
        {"path": "reg", "balancing": 1.5, "loss_weight": 0.5, "image": {"enable_random_flip": True}},
    ],
    "samples": [
        {"enabled": True, "prompt": "a cat", "negative_prompt": "dull", "width": 1024, "height": 768, "seed": 7},
        {"enabled": True, "prompt": "a dog", "random_seed": True, "diffusion_steps": 20, "cfg_scale": 5.5, "seed": 7},
        {"enabled": False, "prompt": "no"},
    ],
}


def test_the_present_form() -> None:
    assert is_onetrainer(NOW)
    found = from_onetrainer(NOW, lambda name: None).checked()
    expected = {
        **{"base_model": "sdxl.safetensors", "name": "cat", "precision": "bf16", "resolution": 1024, "epochs": 20},
        **{"lr": 0.0002, "text_encoder_lr": [0.0001, 0.0], "train_text_encoder": True, "batch_size": 4},
        **{"lr_schedule": "cosine_with_restarts:3", "lr_warmup": 200, "adapter": "dora", "rank": 32, "alpha": 16.0},
        **{"optimizer_option": {"weight_decay": 0.02, "eps": 1e-8, "betas": [0.9, 0.99]}, "targets": "attn-mlp"},
        **{"gradient_checkpointing": True, "min_snr_gamma": 5.0, "max_timestep": 800, "save_every_n_epochs": 2},
        **{"save_minutes": 30, "evaluate_every": 100},
        "sample_prompt": ["a cat --n dull --w 1024 --h 768 --d 7", "a dog --s 20 --l 5.5"],
    }
    assert found.values == expected
    assert found.subsets == [
        {"data": "cat", "repeats": 10, "shuffle_caption": True, "keep_tokens": 2},
        {"data": "reg", "flip_aug": True},
    ]
    assert [left.name for left in found.left_out] == ["concepts.2.balancing", "concepts.2.loss_weight"]


def test_an_older_form_with_its_concepts_in_a_file() -> None:
    older = {
        **{"training_method": "LORA", "model_type": "STABLE_DIFFUSION_15", "concept_file_name": "c.json"},
        **{"optimizer": "ADAFACTOR", "weight_decay": 0.01, "learning_rate": 3e-4, "train_text_encoder": True},
        **{"text_encoder_learning_rate": 1e-4, "train_text_encoder_epochs": 30, "train_unet": False},
        **{"text_encoder_layer_skip": 1, "mse_strength": 0.0, "mae_strength": 1.0, "force_v_prediction": True},
        **{"loss_weight_fn": "P2", "peft_type": "LOHA", "learning_rate_scheduler": "REX", "save_after": 50},
        **{"save_after_unit": "STEP", "sample_after": 10, "sample_after_unit": "MINUTE"},
    }
    found = from_onetrainer(older, {"c.json": [{"path": "cat", "repeats": 3}]}.get).checked()
    assert found.subsets == [{"data": "cat", "repeats": 3}]
    expected = {
        **{"network_train_text_encoder_only": True, "text_encoder_lr": [1e-4], "clip_skip": 2, "loss_type": "l1"},
        **{"prediction": "v_prediction", "adapter": "loha", "save_every": 50},
    }
    assert {key: found.values.get(key) for key in expected} == expected
    assert "adafactor" in found.values["optimizer"]
    names = {left.name for left in found.left_out}
    assert names == {"text_encoder.stop_training_after", "loss_weight_fn", "learning_rate_scheduler", "sample_after"}
    missing = from_onetrainer(older, lambda name: None)
    assert ("concept_file_name", "no_file") in [(left.name, left.reason) for left in missing.left_out]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"training_method": "FINE_TUNE"}, "import_no_lora"),
        ({"model_type": "QWEN"}, "import_other_model"),
        ({"model_type": "STABLE_DIFFUSION_15_INPAINTING"}, "import_other_model"),
    ],
)
def test_what_cannot_be_trained_here_is_refused(changes: dict[str, str], code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_onetrainer({**NOW, **changes}, lambda name: None)
    assert caught.value.code == code
