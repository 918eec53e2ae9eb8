from __future__ import annotations

from typing import Any

import pytest

from tests.sd_scripts.translating import refusal, settings, translation


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", {"lr": 2e-6, "train-text-encoder": True, "optimizer": "adamw", "lr-schedule": "constant"}),
        ("--learning_rate 1e-4 --unet_lr 5e-5", {"lr": 5e-5, "text-encoder-lr": [1e-4]}),
        ("--learning_rate 1e-4 --text_encoder_lr 1e-5", {"lr": 1e-4, "text-encoder-lr": [1e-5]}),
        ("--unet_lr 1e-4 --text_encoder_lr 1e-5 2e-5", {"lr": 1e-4, "text-encoder-lr": [1e-5, 2e-5]}),
        ("--learning_rate 1e-4 --text_encoder_lr1 1e-5", {"text-encoder-lr": [1e-5, 1e-4]}),
        ("--learning_rate 1e-4 --network_train_unet_only", {"train-text-encoder": False}),
        ("--learning_rate 1e-4 --text_encoder_lr 0", {"train-text-encoder": False}),
        ("--network_train_text_encoder_only", {"network-train-text-encoder-only": True}),
        ("--learning_rate 1e-4 --unet_lr 0", {"network-train-text-encoder-only": True, "lr": 0.0}),
        ("--optimizer_type AdamW8bit", {"optimizer": "AdamW8bit"}),
        ("--use_8bit_adam", {"optimizer": "adamw8bit"}),
        ("--use_lion_optimizer", {"optimizer": "lion"}),
        (
            '--optimizer_args weight_decay=0.1 "betas=0.9,0.99"',
            {"optimizer-option": {"weight_decay": 0.1, "betas": [0.9, 0.99]}},
        ),
        ("--lr_scheduler cosine --lr_warmup_steps 10", {"lr-schedule": "cosine", "lr-warmup": 10}),
        (
            "--lr_scheduler constant_with_warmup --lr_warmup_steps 10",
            {"lr-schedule": "constant_with_warmup", "lr-warmup": 10},
        ),
        ("--lr_scheduler cosine --lr_warmup_steps 0.3 --max_train_steps 9", {"lr-warmup": 2}),
        (
            "--lr_scheduler cosine_with_restarts --lr_scheduler_num_cycles 3",
            {"lr-schedule": "cosine_with_restarts", "lr-scheduler-num-cycles": 3},
        ),
        ("--lr_warmup_steps 5", {"lr-schedule": "constant_with_warmup", "lr-warmup": 5}),
        (
            "--lr_scheduler polynomial --lr_scheduler_power 2 --lr_scheduler_args lr_end=1e-6",
            {"lr-schedule": "polynomial", "lr-scheduler-power": 2.0, "lr-scheduler-args": {"lr_end": 1e-6}},
        ),
        (
            "--lr_scheduler warmup_stable_decay --lr_decay_steps 0.2 --lr_scheduler_min_lr_ratio 0.1",
            {"lr-decay-steps": 320, "lr-scheduler-min-lr-ratio": 0.1},
        ),
        (
            "--lr_scheduler_type CosineAnnealingLR --lr_scheduler_args T_max=30",
            {"lr-schedule": "torch.optim.lr_scheduler.CosineAnnealingLR", "lr-scheduler-args": {"T_max": 30}},
        ),
        ("--optimizer_type AdaFactor", {"optimizer": "transformers.adafactor"}),
    ],
)
def test_rates_and_schedules(line: str, expected: dict[str, Any]) -> None:
    found = settings(line, script="sdxl_train_network")
    assert {name: found[name] for name in expected} == expected


def test_a_shared_rate_needs_no_rate_of_the_text_encoder() -> None:
    assert "text-encoder-lr" not in settings("--learning_rate 1e-4")


def test_a_model_with_one_text_encoder_takes_the_first_rate() -> None:
    line = "--learning_rate 1e-4 --text_encoder_lr 1e-5 2e-5"
    assert settings(line)["text-encoder-lr"] == [1e-5]
    assert dict(translation(line).notes)["sd_first_rate_only"] == {"lr": "1e-05"}


def test_the_low_default_rate_is_mentioned() -> None:
    def codes(line: str) -> list[str]:
        return [code for code, _ in translation(line).notes]

    assert "sd_default_learning_rate" in codes("--text_encoder_lr 1e-4")
    assert "sd_default_learning_rate" not in codes("--unet_lr 1e-4")
    assert "sd_constant_with_warmup" in codes("--lr_warmup_steps 5")
    assert "sd_constant_with_warmup" not in codes("--lr_scheduler cosine --lr_warmup_steps 5")


def test_what_a_schedule_does_not_read_is_mentioned_and_not_set() -> None:
    line = "--lr_scheduler cosine --lr_scheduler_num_cycles 3 --lr_scheduler_power 0"
    notes = dict(translation(line).notes)
    assert notes["sd_shape_options_unused"]["arguments"] == ["--lr_scheduler_num_cycles"]
    assert not {"lr-scheduler-num-cycles", "lr-scheduler-power"} & set(settings(line))
    assert "sd_shape_options_unused" not in dict(translation("--lr_scheduler cosine --lr_scheduler_power 1").notes)


@pytest.mark.parametrize("optimizer", ["AdamWScheduleFree", "AdaFactor"])
def test_an_optimizer_with_a_schedule_of_its_own_gets_none(optimizer: str) -> None:
    line = f"--optimizer_type {optimizer} --lr_scheduler cosine --lr_warmup_steps 5"
    assert dict(translation(line).notes)["sd_schedule_unused"]["arguments"] == ["--lr_scheduler", "--lr_warmup_steps"]
    assert not {"lr-schedule", "lr-warmup"} & set(settings(line))


def test_a_share_of_epochs_waits_for_the_number_of_steps() -> None:
    line = "--lr_scheduler cosine --lr_warmup_steps 0.1 --max_train_epochs 3"
    assert translation(line).shares == {("lr_schedule", "warmup_steps"): 0.1}
    assert "lr-warmup" not in settings(line)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("--use_8bit_adam --optimizer_type Lion", "sd_contradiction"),
        ("--optimizer_args weight_decay", "sd_no_pair"),
    ],
)
def test_contradictions_are_refused(line: str, code: str) -> None:
    assert refusal(line).code == code
