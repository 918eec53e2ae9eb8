"""The keys are those of ai-toolkit's examples."""

from copy import deepcopy
from typing import Any

import pytest

from lorasmith.errors import ConfigError
from lorasmith.other_trainers.ai_toolkit import from_ai_toolkit, is_ai_toolkit

CONFIG: dict[str, Any] = {
    "job": "extension",
    "config": {
        "name": "cat_v1",
        "process": [
            {
                "type": "sd_trainer",
                "training_folder": "output",
                "device": "cuda:0",
                "trigger_word": "p3r5on",
                "network": {"type": "lora", "linear": 32, "linear_alpha": 8, "conv": 4},
                "save": {"dtype": "float16", "save_every": 250, "max_step_saves_to_keep": 4, "push_to_hub": False},
                "datasets": [
                    {"folder_path": "cat", "caption_ext": "txt", "shuffle_tokens": False, "resolution": [512, 768]},
                    {"folder_path": "reg", "is_reg": True, "num_repeats": 2, "flip_x": True, "flip_y": True},
                ],
                "train": {
                    **{"batch_size": 2, "steps": 2000, "gradient_accumulation_steps": 4, "noise_scheduler": "ddpm"},
                    **{"optimizer": "adamw8bit", "optimizer_params": {"weight_decay": "1e-2"}, "lr": "1e-4"},
                    **{"train_unet": True, "train_text_encoder": False, "dtype": "bf16", "weight_jitter": 0.1},
                    **{"lr_scheduler": "constant_with_warmup", "lr_scheduler_params": {"num_warmup_steps": 50}},
                    **{"gradient_checkpointing": True, "max_denoising_steps": 900, "loss_type": "mae"},
                },
                "model": {"name_or_path": "sdxl.safetensors", "is_xl": True, "quantize": False},
                "sample": {
                    **{
                        "sample_every": 250,
                        "width": 1024,
                        "height": 1024,
                        "neg": "dull",
                        "seed": 42,
                        "walk_seed": True,
                    },
                    **{"guidance_scale": 6, "sample_steps": 20, "prompts": ["[trigger] on the moon", "a dog"]},
                },
            }
        ],
    },
}


def changed(**parts: dict[str, Any]) -> dict[str, Any]:
    table = deepcopy(CONFIG)
    for name, values in parts.items():
        table["config"]["process"][0][name] |= values
    return table


def test_a_configuration() -> None:
    assert is_ai_toolkit(CONFIG)
    found = from_ai_toolkit(CONFIG).checked()
    assert found.values == {
        **{"base_model": "sdxl.safetensors", "name": "cat_v1", "output": "output/cat_v1", "trigger_word": "p3r5on"},
        **{
            "rank": 32,
            "alpha": 8.0,
            "conv_rank": 4,
            "conv_alpha": 4.0,
            "steps": 2000,
            "batch_size": 2,
            "accumulate": 4,
        },
        **{"optimizer": "adamw8bit", "lr_warmup": 50, "precision": "bf16"},
        "optimizer_option": {"weight_decay": 0.01},
        **{"gradient_checkpointing": True, "max_timestep": 900, "loss_type": "l1", "save_every": 250},
        **{"save_last_n_steps": 750, "evaluate_every": 250},
        "sample_prompt": [
            "p3r5on on the moon --n dull --w 1024 --h 1024 --s 20 --l 6 --d 42",
            "a dog --n dull --w 1024 --h 1024 --s 20 --l 6 --d 43",
        ],
    }
    assert found.subsets == [
        {"data": "cat", "caption_extension": ".txt", "resolution": 512},
        {"data": "cat", "caption_extension": ".txt", "resolution": 768},
        {"data": "reg", "repeats": 2, "flip_aug": True, "is_reg": True, "resolution": 512},
    ]
    assert [left.name for left in found.left_out] == ["train.weight_jitter", "datasets.1.flip_y"]


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ({"model": {"is_v3": True}}, "import_other_model"),
        ({"model": {"arch": "qwen_image"}}, "import_other_model"),
        ({"train": {"noise_scheduler": "flowmatch"}}, "import_other_model"),
    ],
)
def test_other_models_are_refused(parts: dict[str, dict[str, Any]], code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_ai_toolkit(changed(**parts))
    assert caught.value.code == code


def test_a_process_without_a_network_is_no_lora() -> None:
    table = deepcopy(CONFIG)
    del table["config"]["process"][0]["network"]
    with pytest.raises(ConfigError) as caught:
        from_ai_toolkit(table)
    assert caught.value.code == "import_no_lora"
