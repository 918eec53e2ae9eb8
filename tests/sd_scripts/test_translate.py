from __future__ import annotations

from typing import Any

import pytest

from tests.sd_scripts.translating import refusal, settings, translation


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "",
            {
                "steps": 1600,
                "precision": "fp32",
                "save-precision": "fp32",
                "bucket-step": 64,
                "enable-bucket": False,
                "resize-interpolation": "auto",
                "hold-out": 0,
                "save-every": 0,
                "evaluate-every": 100,
            },
        ),
        (
            "--pretrained_model_name_or_path m.safetensors --train_data_dir d --output_dir o --output_name n --seed 7",
            {
                "base-model": "m.safetensors",
                "data": "d",
                "output": "o/n-run",
                "name": "n",
                "export.naming": "sd-scripts",
                "seed": 7,
            },
        ),
        ("--output_dir o", {"output": "o/last-run", "name": "last", "export.naming": "sd-scripts-unnamed"}),
        ("", {"output": "lora_output/last-run", "caption-extension": ".caption"}),
        ("--caption_extension txt --shuffle_caption --keep_tokens 2", {"shuffle-caption": True, "keep-tokens": 2}),
        ("--caption_extention .txt", {"caption-extension": ".txt"}),
        ("--max_train_epochs 3 --max_train_steps 5", {"epochs": 3}),
        ("--mixed_precision bf16 --save_precision float", {"precision": "bf16", "save-precision": "fp32"}),
        ("--v_parameterization --zero_terminal_snr", {"prediction": "v_prediction", "zero-terminal-snr": "on"}),
        ("--resolution 768,768", {"resolution": 768}),
        ("--resolution 512,768 --enable_bucket", {"resolution": [512, 768], "bucket-rule": "sd-scripts"}),
        ("--metadata_author me --metadata_title t", {"metadata": {"author": "me", "title": "t"}}),
        ("--train_batch_size 4 --gradient_accumulation_steps=2", {"batch-size": 4, "accumulate": 2}),
        ("--seed 0", {"seed": 0}),
        ("--validation_split 0.1", {"hold-out": 0.1}),
        ("--base_weights a b --base_weights_multiplier 1 0.5", {"base-weights": ["a", "b"]}),
        ("--sample_prompts p.txt", {"sample-prompts": "p.txt"}),
        (
            "--min_snr_gamma=5 --noise_offset=0.05 --loss_type huber --huber_c 0.2 --max_timestep 900",
            {"min-snr-gamma": 5.0, "noise-offset": 0.05, "loss-type": "huber", "huber-c": 0.2, "max-timestep": 900},
        ),
    ],
)
def test_settings(line: str, expected: dict[str, Any]) -> None:
    found = settings(line)
    assert {name: found[name] for name in expected} == expected


def test_steps_and_epochs_are_not_both_set() -> None:
    assert "steps" not in settings("--max_train_epochs 3 --max_train_steps 5")
    assert "epochs" not in settings("--max_train_steps 5")


def test_a_default_equal_to_ours_is_not_set() -> None:
    equal = {"max-grad-norm", "batch-size", "accumulate", "clip-skip", "seed"}
    assert not equal & set(settings(""))
    assert not {"bucket-rule", "min-bucket-reso", "max-bucket-reso"} & set(settings(""))
    assert "bucket-rule" not in settings("--enable_bucket --bucket_no_upscale")  # which has a rule of its own
    assert settings("--enable_bucket --in_json meta.json")["bucket-rule"] == "sd-scripts"


def test_arguments_without_effect_are_named_once_for_each_reason() -> None:
    notes = dict(translation("--xformers --sdpa --lowram --max_train_steps 3").notes)
    assert notes["sd_attention"] == {"arguments": ["--xformers", "--sdpa"]}
    assert notes["sd_memory"] == {"arguments": ["--lowram"]}
    assert "sd_default_steps" not in notes


def test_a_ratio_that_sd_scripts_gets_wrong_is_mentioned() -> None:
    line = "--zero_terminal_snr --v_parameterization --min_snr_gamma 5"
    assert dict(translation(line).notes)["sd_snr_of_terminal"] == {"arguments": ["--min_snr_gamma"]}
    assert "sd_snr_of_terminal" not in dict(translation("--min_snr_gamma 5").notes)


def test_the_default_of_1600_steps_is_mentioned() -> None:
    assert dict(translation("").notes)["sd_default_steps"] == {"steps": 1600}


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("--deepspeed", "sd_deepspeed"),
        ("--log_with wandb", "sd_log_with"),
        ("--save_model_as ckpt", "sd_save_model_as"),
        ("--initial_step 5", "sd_initial_step"),
    ],
)
def test_what_is_refused(line: str, code: str) -> None:
    assert refusal(line).code == code


def test_a_refused_argument_may_ask_for_what_is_done_anyway() -> None:
    found = translation("--log_with tensorboard --save_model_as safetensors --initial_step 0 --sample_sampler euler")
    assert "sd_own_sampler" not in dict(found.notes)
    assert "sd_own_sampler" in dict(translation("--sample_sampler euler_a").notes)
