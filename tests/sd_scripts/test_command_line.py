from __future__ import annotations

from pathlib import Path

import pytest

from lorasmith.errors import ConfigError
from lorasmith.sd_scripts.arguments import Script
from lorasmith.sd_scripts.command_line import Given, parsed


def read(line: str, here: Path = Path("/nowhere"), script: Script = "train_network") -> Given:
    return parsed(line.split(), script, here)


def refused(line: str, here: Path = Path("/nowhere"), script: Script = "train_network") -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read(line, here, script)
    return caught.value


def test_words_become_values() -> None:
    line = "--network_dim=8 --learning_rate 1e-4 --xformers --network_args conv_dim=4 conv_alpha=1 --seed -1"
    assert read(line).values == {
        "network_dim": 8,
        "learning_rate": 1e-4,
        "xformers": True,
        "network_args": ["conv_dim=4", "conv_alpha=1"],
        "seed": -1,
    }


def test_arguments_may_be_shortened_while_they_are_unique_and_the_last_counts() -> None:
    assert read("--learning 3 --learning_rate 2").values == {"learning_rate": 2.0}
    error = refused("--save_last 3")
    assert (error.code, len(error.fields["candidates"])) == ("sd_ambiguous", 4)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("--xformers=1", "sd_flag_with_value"),
        ("--network_dim", "sd_without_value"),
        ("--network_dim --xformers", "sd_without_value"),
        ("hello", "argument_unexpected"),
        ("--netwrok_dim 3", "sd_mistyped"),
        ("--network-dim 3", "sd_mistyped"),
        ("--cache_text_encoder_outputs", "sd_other_script_taken"),
        ("--config_file gone", "config_missing"),
    ],
)
def test_a_wrong_line_is_refused(line: str, code: str, tmp_path: Path) -> None:
    assert refused(line, tmp_path).code == code


def test_the_other_script_takes_its_own_arguments() -> None:
    assert read("--cache_text_encoder_outputs", script="sdxl_train_network").has("cache_text_encoder_outputs")


def test_defaults_are_those_of_sd_scripts() -> None:
    given = read("")
    assert (given.value("learning_rate"), given.value("max_train_steps"), given.value("xformers")) == (
        2e-6,
        1600,
        False,
    )
    assert given.value("network_dim") is None
    assert not given.has("learning_rate")


def test_the_command_line_wins_over_the_file_and_sections_are_flattened(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        'network_dim = 4\noptimizer_args = ["weight_decay=0.1"]\n[a]\nseed = 1\nxformers = false\n[b]\nseed = 2\n'
    )
    for name in ("run", "run.toml"):
        given = read(f"--config_file {name} --network_dim 8", tmp_path)
        assert given.value("network_dim") == 8
        assert (given.value("seed"), given.has("xformers")) == (2, False)
        assert given.value("optimizer_args") == ["weight_decay=0.1"]


def test_what_sd_scripts_does_not_read_in_a_file_is_no_error(tmp_path: Path) -> None:
    """kohya_ss writes keys that are no arguments, and values that the parser would refuse."""
    text = 'epoch = 5\nnoise_offset_type = "Original"\ndynamo_backend = "no"\npersistent_data_loader_workers = 1\n'
    (tmp_path / "run.toml").write_text(text)
    given = read("--config_file run.toml", tmp_path)
    assert [name for name in given.values if given.has(name)] == [
        "dynamo_backend",
        "persistent_data_loader_workers",
        "config_file",
    ]


@pytest.mark.parametrize(
    ("text", "code", "field"),
    [
        ("netwrok_dim = 3\n", "sd_mistyped_in_file", "network_dim"),
        ("[x]\nblocks_to_swap = 3\n", "sd_other_script_in_file", "flux_train_network.py"),
        ("zzz = 3\n", "sd_unknown_in_file", None),
        ("[a]\nseed = 1\n[[a.subsets]]\nimage_dir = 'x'\n", "sd_datasets_in_config", None),
        ("[[datasets]]\n", "sd_datasets_in_config", None),
        ("network_dim = 'x'\n", "sd_not_integer", None),
        ("[a]\n[a.b]\nseed = 1\n", "sd_unknown_in_file", None),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, code: str, field: str | None) -> None:
    (tmp_path / "run.toml").write_text(text)
    error = refused("--config_file run.toml", tmp_path)
    assert error.code == code
    assert field in (error.fields.get("nearest"), error.fields.get("script"))
