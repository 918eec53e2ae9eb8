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
        ("--optimizer_type AdamW8bit", {"optimizer": "AdamW8bit"}),
        ("--use_8bit_adam", {"optimizer": "adamw8bit"}),
        ("--use_lion_optimizer", {"optimizer": "lion"}),
        (
            '--optimizer_args weight_decay=0.1 "betas=0.9,0.99"',
            {"optimizer-option": {"weight_decay": 0.1, "betas": [0.9, 0.99]}},
        ),
        ("--lr_scheduler cosine --lr_warmup_steps 10", {"lr-schedule": "cosine", "lr-warmup": 10}),
        ("--lr_scheduler constant_with_warmup --lr_warmup_steps 10", {"lr-schedule": "constant", "lr-warmup": 10}),
        ("--lr_scheduler cosine --lr_warmup_steps 0.3 --max_train_steps 9", {"lr-warmup": 2}),
        (
            "--lr_scheduler cosine_with_restarts --lr_scheduler_num_cycles 3",
            {"lr-schedule": "cosine_with_restarts:3"},
        ),
        ("--lr_scheduler cosine --lr_scheduler_num_cycles 3", {"lr-schedule": "cosine"}),
    ],
)
def test_rates_and_schedules(line: str, expected: dict[str, Any]) -> None:
    found = settings(line, script="sdxl_train_network")
    assert {name: found[name] for name in expected} == expected


def test_a_shared_rate_needs_no_rate_of_the_text_encoder() -> None:
    assert "text-encoder-lr" not in settings("--learning_rate 1e-4")


def test_the_low_default_rate_is_mentioned() -> None:
    def codes(line: str) -> list[str]:
        return [code for code, _ in translation(line).notes]

    assert "sd_default_learning_rate" in codes("--text_encoder_lr 1e-4")
    assert "sd_default_learning_rate" not in codes("--unet_lr 1e-4")
    assert "sd_constant_with_warmup" in codes("--lr_warmup_steps 5")
    assert "sd_constant_with_warmup" not in codes("--lr_scheduler cosine --lr_warmup_steps 5")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("--use_8bit_adam --optimizer_type Lion", "sd_contradiction"),
        ("--optimizer_args weight_decay", "sd_no_pair"),
        ("--lr_warmup_steps 0.1 --max_train_epochs 3", "sd_share_of_epochs"),
    ],
)
def test_contradictions_are_refused(line: str, code: str) -> None:
    assert refusal(line).code == code
