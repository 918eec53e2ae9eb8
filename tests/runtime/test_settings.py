"""Settings that contradict each other, or have no effect."""

from typing import Any

import pytest

from lorasmith.config import AdapterConfig, Request, RunConfig
from lorasmith.errors import ConfigError, ResumeError
from lorasmith.runtime.settings import check_identity, check_installed, check_lokr_effects, check_settings

SCHEDULE_FREE = {("optimizer", "name"): "adamwschedulefree"}
RELATIVE = {("optimizer", "name"): "transformers.adafactor"}
PRODIGY = {("optimizer", "name"): "dadaptlion", ("optimizer", "lr"): 1.0}
COSINE = {("lr_schedule", "shape"): "cosine"}
PLUS = {("optimizer", "loraplus_lr_ratio"): 16.0}


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({**SCHEDULE_FREE, **COSINE}, "schedule_of_schedule_free"),
        ({**SCHEDULE_FREE, ("lr_schedule", "warmup_steps"): 5}, "schedule_of_schedule_free"),
        ({**SCHEDULE_FREE, ("training", "ema_decay"): 0.9}, "option_of_schedule_free"),
        ({**SCHEDULE_FREE, ("training", "scale_weight_norms"): 1.0}, "option_of_schedule_free"),
        ({**RELATIVE, **COSINE}, "rates_of_relative_steps"),
        ({**RELATIVE, **PLUS}, "rates_of_relative_steps"),
        ({**PRODIGY, **PLUS}, "prodigy_rates"),
        ({**PRODIGY, ("optimizer", "block_lrs"): {"mid_block": 0.5}}, "prodigy_rates"),
        ({**PLUS, ("adapter", "kind"): "loha"}, "loraplus_kind"),
        ({("optimizer", "loraplus_text_encoder_lr_ratio"): 4.0}, "loraplus_text_encoder"),
        ({("training", "full_bf16"): True}, "full_bf16_precision"),
        ({("model", "base_precision"): "fp8", ("adapter", "kind"): "dora"}, "dora_in_float32"),
        ({("model", "base_offload"): 0.5, ("adapter", "kind"): "dora"}, "dora_in_float32"),
        ({("model", "training_adapter"): "a.safetensors", ("adapter", "kind"): "dora"}, "training_adapter_dora"),
        ({("lr_schedule", "shape"): "a.B", ("lr_schedule", "warmup_steps"): 5}, "warmup_of_class"),
        ({**COSINE, ("lr_schedule", "args"): {"lr_end": 1e-6}}, "lr_scheduler_args_unknown"),
    ],
)
def test_rates_that_make_no_sense_together(values: dict[tuple[str, str], Any], code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_settings(RunConfig().with_values(values), Request())
    assert caught.value.code == code


@pytest.mark.parametrize(
    "values",
    [
        SCHEDULE_FREE,
        {**RELATIVE, ("optimizer", "options"): {"relative_step": False}, **COSINE, **PLUS},
        {**PRODIGY, **COSINE, ("optimizer", "text_encoder_lr"): 0.0, ("adapter", "train_text_encoder"): True},
        {**PLUS, ("adapter", "kind"): "dora", ("optimizer", "block_lrs"): {"mid_block": 0.5}},
    ],
)
def test_rates_that_do(values: dict[tuple[str, str], Any]) -> None:
    check_settings(RunConfig().with_values(values), Request())


def test_an_optimizer_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = RunConfig().with_values({("optimizer", "name"): "lion8bit"}).optimizer
    monkeypatch.setattr("lorasmith.runtime.settings.find_spec", {"torch": 1, "bitsandbytes": 1}.get)
    check_installed(optimizer)
    monkeypatch.setattr("lorasmith.runtime.settings.find_spec", {"torch": 1}.get)
    check_installed(RunConfig().optimizer)
    with pytest.raises(ConfigError, match="optimizer_not_installed") as caught:
        check_installed(optimizer)
    assert caught.value.fields["package"] == "bitsandbytes"


def config_of(**adapter: Any) -> RunConfig:
    return RunConfig().with_values({("adapter", name): value for name, value in adapter.items()})


@pytest.mark.parametrize(
    ("settings", "code", "option"),
    [
        ({"lokr_decompose_both": True}, "lokr_options_contradict", None),
        ({"rank": 16}, "lokr_full_matrix_unused", "rank"),
        ({"alpha": 4.0}, "lokr_full_matrix_unused", "alpha"),
        ({"conv_rank": 4}, "lokr_full_matrix_unused", "conv-rank"),
        ({"rslora": True}, "lokr_full_matrix_unused", "rslora"),
        ({"block_ranks": {"mid_block": 4}}, "lokr_full_matrix_unused", "block-rank"),
    ],
)
def test_options_without_effect_on_full_matrices(settings: dict[str, Any], code: str, option: str | None) -> None:
    config = AdapterConfig(kind="lokr", lokr_full_matrix=True, **settings)
    with pytest.raises(ConfigError) as caught:
        check_lokr_effects(config, settings.keys())
    assert (caught.value.code, caught.value.fields.get("option")) == (code, option)
    check_lokr_effects(AdapterConfig(kind="lokr", **settings), settings.keys())


def test_options_with_an_effect_on_full_matrices() -> None:
    settings: dict[str, Any] = {"targets": "full", "block_ranks": {"mid_block": 0}, "rslora": False, "lokr_factor": 8}
    check_lokr_effects(AdapterConfig(kind="lokr", lokr_full_matrix=True, **settings), settings.keys())


@pytest.mark.parametrize(
    ("before", "after", "code", "fields"),
    [
        ({"rank": 8}, {"rank": 4}, "identity_changed", {"option": "rank", "before": "8", "now": "4"}),
        ({}, {"targets": "attn-only"}, "identity_added", {"option": "targets", "value": "attn-only"}),
        ({"rslora": True}, {}, "identity_removed", {"option": "rslora", "value": "true"}),
        (
            {"block_ranks": {"down_blocks.1": 2}},
            {"block_ranks": {"down_blocks.1": 4, "mid_block": 0}},
            "identity_changed",
            {"option": "block-rank", "before": "down_blocks.1=2", "now": "down_blocks.1=4 mid_block=0"},
        ),
    ],
)
def test_values_that_cannot_change_are_shown_as_typed(
    before: dict[str, Any], after: dict[str, Any], code: str, fields: dict[str, str]
) -> None:
    with pytest.raises(ResumeError) as caught:
        check_identity(config_of(**before), config_of(**after))
    assert (caught.value.code, caught.value.fields) == (code, fields)
