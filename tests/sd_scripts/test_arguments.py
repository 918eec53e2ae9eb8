from __future__ import annotations

from typing import Any

import pytest

from lorasmith.errors import ConfigError
from lorasmith.sd_scripts.arguments import (
    OF_FLOW,
    OF_MUSUBI,
    ONLY_DOCUMENTED,
    arguments,
    converted,
    known_to,
    of_other_scripts,
    unknown,
)


def test_scripts_have_the_arguments_that_their_parsers_were_counted_to_have() -> None:
    of_sdxl = len(known_to("sdxl_train_network")) - len(ONLY_DOCUMENTED)
    assert (len(known_to("train_network")), of_sdxl) == (193, 196)
    assert (len(known_to("flux_train_network")), len(known_to("anima_train_network"))) == (215, 220)
    assert len(of_other_scripts()) == 48
    assert [len(known_to(script)) for script in OF_MUSUBI] == [123, 123, 123]
    sampling = arguments()["timestep_sampling"]
    assert [sampling.default_of(script) for script in OF_FLOW] == ["sigma", "sigmoid", *["sigma"] * 3]
    assert arguments()["learning_rate"].default == "2e-06"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("network_dim", "8", 8),
        ("network_dim", 8.0, 8),
        ("learning_rate", "1e-4", 1e-4),
        ("learning_rate", 1, 1),
        ("lr_warmup_steps", "0.1", 0.1),
        ("lr_warmup_steps", "25%", 0.25),
        ("lr_warmup_steps", 3.0, 3),
        ("lr_warmup_steps", "100", 100),
        ("resolution", [512, 768], "512,768"),
        ("resolution", 512, "512"),
        ("output_name", 7, "7"),
        ("vae", "", None),
        ("max_token_length", 225, 225),
        ("max_token_length", 75, 75),
        ("mixed_precision", "BF16", "bf16"),
        ("text_encoder_lr", 1e-5, [1e-5]),
        ("text_encoder_lr", ["1e-5", 2e-5], [1e-5, 2e-5]),
        ("network_args", "conv_dim=4 conv_alpha=1", ["conv_dim=4", "conv_alpha=1"]),
        ("xformers", True, True),
        ("full_bf16", 1, True),
        ("resume", False, None),
    ],
)
def test_values_are_read_as_they_are_written(name: str, value: Any, expected: Any) -> None:
    assert converted(arguments()[name], value, name) == expected


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("network_dim", "8.5", "sd_not_integer"),
        ("network_dim", True, "sd_not_integer"),
        ("network_dim", [8], "sd_not_integer"),
        ("learning_rate", "fast", "sd_not_number"),
        ("learning_rate", "nan", "sd_not_number"),
        ("text_encoder_lr", ["x"], "sd_not_number"),
        ("text_encoder_lr", [True], "sd_not_number"),
        ("lr_warmup_steps", "some", "sd_not_steps"),
        ("lr_warmup_steps", "2.5", "sd_not_steps"),
        ("output_name", True, "sd_not_text"),
        ("network_args", [4], "sd_not_text"),
        ("xformers", "yes", "sd_not_flag"),
        ("mixed_precision", "fp17", "sd_not_choice"),
        ("max_token_length", 100, "sd_not_choice"),
    ],
)
def test_wrong_values_are_refused(name: str, value: Any, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        converted(arguments()[name], value, f"--{name}")
    assert (caught.value.code, caught.value.fields["argument"]) == (code, f"--{name}")


@pytest.mark.parametrize(
    ("given", "code", "field"),
    [
        ("netwrok_dim", "sd_mistyped", "--network_dim"),
        ("blocks_to_swap", "sd_other_script_taken", "flux_train_network.py"),
        ("cache_text_encoder_outputs", "sd_other_script_taken", "sdxl_train_network.py"),
        ("clip_g", "sd_other_script", "sd3_train_network.py"),
        ("zzz", "sd_unknown", None),
    ],
)
def test_an_unknown_name_is_explained(given: str, code: str, field: str | None) -> None:
    error = unknown(given, f"--{given}", "train_network")
    assert error.code == code
    assert field in (error.fields.get("nearest"), error.fields.get("script"))
