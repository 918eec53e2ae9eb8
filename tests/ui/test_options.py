from __future__ import annotations

from typing import Any

import pytest

from lorasmith.config import options
from lorasmith.errors import ConfigError
from lorasmith.option_names import OURS
from lorasmith.ui.options import PAIRS, layered, option_names, parse, split_request


def test_values_have_the_types_of_the_model() -> None:
    typed = "--new --steps 500 --lr 1e-4 --hold-out auto --name=my --train-text-encoder --verbose --seed 7"
    line = parse(typed.split())
    assert line.mode == "new"
    assert line.values == {
        ("request", "steps"): 500,
        ("optimizer", "lr"): 1e-4,
        ("dataset", "hold_out"): "auto",
        ("export", "name"): "my",
        ("adapter", "train_text_encoder"): True,
        ("request", "verbose"): True,
        ("", "seed"): 7,
    }
    assert parse(["--hold-out", "4"]).values == {("dataset", "hold_out"): 4}


def test_descriptions_are_texts() -> None:
    values = parse(["--metadata", "title=1.10", "--metadata", "author=Ann Lee"]).values
    assert values == {("export", "model_spec"): {"title": "1.10", "author": "Ann Lee"}}


def test_every_option_of_the_model_is_on_the_command_line() -> None:
    texts = {
        "optimizer_option": "a=1",
        "lr_scheduler_args": "power=2",
        "bucket_step": "32",
        "block_rank": "mid_block=4",
        "block_lr": "mid_block=0.5",
        "metadata": "author=Ann",
        "hold_out": "1",
        "lr_schedule": "linear",
        "lang": "en",
        "loss_type": "l1",
        "huber_schedule": "snr",
        "bucket_rule": "sd-scripts",
        "base_form": "base",
        "text_encoder_precision": "int8",
        "export_format": "kohya",
        "base_precision": "int8",
        "execution": "eager",
        "flow_weighting": "cosmap",
        "timestep_density": "uniform",
        "face_crop_aug_range": "1,2",
        "max_token_length": "150",
        "resize_interpolation": "cubic",
    }
    for key, option in options().items():
        text = texts.get(
            key,
            {"precision": "fp32", "save_precision": "fp32", "prediction": "epsilon", "zero_terminal_snr": "on"}.get(
                key, "true"
            ),
        )
        for candidate in (text, "1", "0.5", "512"):
            try:
                values = parse([f"--{option.name}", candidate]).values
            except ConfigError:
                continue
            assert list(values) == [(option.section, option.field_name)]
            break
        else:
            pytest.fail(f"--{option.name} takes nothing")


def test_a_flag_can_be_taken_back() -> None:
    assert parse(["--skip-bad-pictures=false"]).values == {("dataset", "skip_bad_pictures"): False}


def test_checkpointing_without_a_value_is_that_of_every_block() -> None:
    at = ("training", "gradient_checkpointing")
    for words in (
        ["--gradient-checkpointing"],
        ["--gradient-checkpointing", "true"],
        ["--gradient-checkpointing=Block"],
    ):
        assert parse(words).values == {at: "block"}
    assert parse(["--gradient-checkpointing", "--rank", "4"]).values[at] == "block"
    assert parse(["--gradient-checkpointing=false"]).values == {at: "none"}


def test_optimizer_options_are_toml_values_or_text() -> None:
    typed = ["--optimizer-option", "betas=[0.9, 0.99]", "--optimizer-option", "mode=fast", "--optimizer-option", "w=1"]
    assert parse(typed).values == {("optimizer", "options"): {"betas": [0.9, 0.99], "mode": "fast", "w": 1}}


@pytest.mark.parametrize(
    ("typed", "code", "fields"),
    [
        ("--stepz 3", "option_unknown", {"option": "--stepz", "nearest": "--steps"}),
        ("--save_every=3", "option_unknown", {"option": "--save_every", "nearest": "--save-every"}),
        (
            "--batch 3",
            "option_unknown",
            {"option": "--batch", "nearest": "--batch-size"},
        ),  # no abbreviations: they change with every option added
        ("500", "argument_unexpected", {"argument": "500"}),
        ("--steps", "option_without_value", {"option": "steps"}),
        ("--steps --new", "option_without_value", {"option": "steps"}),
        ("--config", "option_without_value", {"option": "config"}),
        ("--optimizer-option", "option_without_value", {"option": "optimizer-option"}),
        ("--steps 0", "config_value", {"option": "steps"}),
        ("--steps -3", "config_value", {"option": "steps"}),
        ("--steps -3x", "config_value", {"option": "steps"}),
        ("--steps abc", "config_value", {"option": "steps"}),
        ("--steps 1.5", "config_value", {"option": "steps"}),
        ("--lr nan", "config_value", {"option": "lr"}),
        ("--hold-out -1", "config_value", {"option": "hold-out"}),
        ("--precision fp8", "config_value", {"option": "precision"}),
        ("--name a/b", "config_value", {"option": "name"}),
        ("--verbose maybe", "config_value", {"option": "verbose"}),
        ("--lang fr", "config_value", {"option": "lang"}),
        ("--new=3", "option_flag", {"option": "new"}),
        ("--new --continue", "new_and_continue", {}),
        ("--from best", "from_without_continue", {}),
        ("--new --from best", "from_without_continue", {}),
        ("--optimizer-option betas", "option_pair", {"option": "optimizer-option", "given": "betas"}),
        ("--block-rank =3", "option_pair", {"given": "=3", "example": "down_blocks.1=4"}),
        ("--block-rank a=3 --block-rank b=2 --block-rank a=2", "option_pair_twice", {"name": "a"}),
    ],
)
def test_what_is_wrong_is_named(typed: str, code: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(typed.split())
    assert caught.value.code == code
    assert fields.items() <= caught.value.fields.items()


def test_a_value_may_begin_with_a_dash() -> None:
    """What is wrong with it is for the option to report: `-GiB` is no option."""
    assert parse(["--memory", "-3GiB"]).values == {("request", "memory"): "-3GiB"}
    assert parse(["--memory", "-GiB", "--new"]).values == {("request", "memory"): "-GiB"}
    assert parse(["--memory", "-h"]).wants == "help"
    with pytest.raises(ConfigError) as caught:
        parse(["--train-text-encoder", "-rank", "4"])
    assert (caught.value.code, caught.value.fields["option"]) == ("option_unknown", "-rank")


def test_every_option_of_pairs_has_a_pair_to_show() -> None:
    assert PAIRS.keys() == {option.name for option in options().values() if option.kinds == [dict]}


@pytest.mark.parametrize(
    ("typed", "ours"),
    [
        ("--learning_rate", "--lr"),
        ("--network_dim", "--rank"),
        ("--network_alpha", "--alpha"),
        ("--max_train_steps", "--steps"),
        ("--resume", "--continue"),
        ("--output_name", "--name"),
        ("--output_dir", "--output"),
        ("--train_data_dir", "--data"),
        ("--pretrained_model_name_or_path", "--base-model"),
        ("--network_weights", "--init-from"),
        ("--optimizer_type", "--optimizer"),
        ("--mixed_precision", "--precision"),
        ("--train_batch_size", "--batch-size"),
        ("--gradient_accumulation_steps", "--accumulate"),
        ("--lr_scheduler", "--lr-schedule"),
        ("--lr_warmup_steps", "--lr-warmup"),
        ("--save_every_n_steps", "--save-every"),
        ("--v_parameterization", "--prediction v_prediction"),
    ],
)
def test_another_trainer_s_option_is_answered_with_ours(typed: str, ours: str) -> None:
    for given in (f"{typed}=3", typed.replace("_", "-")):
        with pytest.raises(ConfigError) as caught:
            parse([given])
        assert (caught.value.code, caught.value.fields["ours"]) == ("option_foreign", ours)


def test_all_answers_name_options_there_are() -> None:
    for answer in OURS.values():
        name = answer.split()[0].removeprefix("--")
        assert name in option_names()


@pytest.mark.parametrize(
    "typed", ["--nwe", "--neww", "--form", "--blocks_to_swap", "--fused_backward_pass", "--mid", "-n", "--"]
)
def test_nothing_far_fetched_and_nothing_that_moves_a_run_is_suggested(typed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse([typed, "3"])
    assert (caught.value.code, "nearest" in caught.value.fields) == ("option_unrecognised", False)


@pytest.mark.parametrize(
    ("typed", "at", "value"),
    [
        (["--optimizer", "AdamW8bit"], ("optimizer", "name"), "adamw8bit"),
        (["--lr-schedule", "Cosine_with_Restarts:3"], ("lr_schedule", "shape"), "cosine_with_restarts:3"),
        (["--precision", "BF16"], ("model", "precision"), "bf16"),
        (["--save-precision", "FP16"], ("export", "save_precision"), "fp16"),
        (["--device", "CUDA:1"], ("machine", "device"), "cuda:1"),
        (["--hold-out", "Auto"], ("dataset", "hold_out"), "auto"),
        (["--prediction", "V_Prediction"], ("model", "prediction"), "v_prediction"),
    ],
)
def test_names_in_any_case_of_letters(typed: list[str], at: tuple[str, str], value: str) -> None:
    assert parse(typed).values == {at: value}


@pytest.mark.parametrize("typed", ["--help", "-h", "--new --help", "--help --stepz"])
def test_help_comes_before_any_complaint(typed: str) -> None:
    assert parse(typed.split()).wants == "help"


def test_later_layers_win() -> None:
    steps, lr = ("request", "steps"), ("optimizer", "lr")
    assert layered({steps: 1, lr: 1.0}, {steps: 2}, {}) == {steps: 2, lr: 1.0}


def test_steps_and_epochs_replace_each_other_between_layers_and_collide_within_one() -> None:
    steps, epochs = ("request", "steps"), ("request", "epochs")
    assert layered({steps: 500}, {epochs: 2}) == {epochs: 2}
    assert layered({epochs: 2}, {steps: 500}) == {steps: 500}
    with pytest.raises(ConfigError, match="steps_and_epochs"):
        layered({steps: 500}, {steps: 1, epochs: 2})


def test_options_of_the_optimizer_are_laid_over_each_other_one_by_one() -> None:
    at = ("optimizer", "options")
    assert layered({at: {"a": 1, "b": 2}}, {at: {"b": 3}}) == {at: {"a": 1, "b": 3}}


def test_the_request_is_parted_from_the_settings() -> None:
    settings, request = split_request({("request", "steps"): 3, ("optimizer", "lr"): 1.0})
    assert settings == {("optimizer", "lr"): 1.0}
    assert (request.steps, request.output) == (3, "lora_output")
    with pytest.raises(ConfigError, match="config_value"):
        split_request({("request", "steps"): "many"})
