import tomllib
from pathlib import Path
from typing import Any

import pytest

from lorasmith.config import RunConfig, dump_run_toml, load_flat_toml, load_run_toml, options
from lorasmith.errors import ConfigError


def refusal(path: Path, load: Any = load_flat_toml) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return caught.value


# -- what a person writes --------------------------------------------------------------------------


def test_keys_are_the_option_names(tmp_path: Path) -> None:
    path = tmp_path / "lorasmith.toml"
    path.write_text(
        'base_model = "模型/a.safetensors"\nlr = 1e-4\nsave_every = 0\noptimizer_option = { betas = [0.9, 0.99] }\n'
        'steps = 7\nseed = 3\nname = "貓"\n',
        encoding="utf-8",
    )
    assert load_flat_toml(path) == {
        ("model", "base_model"): "模型/a.safetensors",
        ("optimizer", "lr"): 1e-4,
        ("cadence", "save_every"): 0,
        ("optimizer", "options"): {"betas": [0.9, 0.99]},
        ("request", "steps"): 7,
        ("", "seed"): 3,
        ("export", "name"): "貓",
    }


def test_every_option_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("".join(f'{key} = "x"\n' for key in options()))
    assert len(load_flat_toml(path)) == len(options())


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_windows_editors_are_understood(tmp_path: Path, mark: bytes, end: bytes) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(mark + b"rank = 8" + end + b"lr = 1e-3" + end)
    assert load_flat_toml(path) == {("adapter", "rank"): 8, ("optimizer", "lr"): 1e-3}


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("rnak", "rank"),
        ("save-every", "save_every"),
        ("learning_rate_", "resolution"),
        ("optimiser", "optimizer"),
        ("basemodel", "base_model"),
        ("Rank", "rank"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(tmp_path: Path, key: str, nearest: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(f"lr = 1e-4\n{key} = 3\n")
    error = refusal(path)
    assert (error.code, error.fields["key"], error.fields["file"]) == ("config_unknown_key", key, str(path))
    assert error.fields["nearest"] in options()
    if key != "learning_rate_":  # nothing is near: any valid one
        assert error.fields["nearest"] == nearest


def test_sections_are_for_run_toml_only(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("[adapter]\nrank = 3\n")
    assert refusal(path).fields["key"] == "adapter"


@pytest.mark.parametrize("load", [load_flat_toml, load_run_toml])
def test_a_missing_file_is_named(tmp_path: Path, load: Any) -> None:
    error = refusal(tmp_path / "no.toml", load)
    assert (error.code, error.fields) == ("config_missing", {"file": str(tmp_path / "no.toml")})


@pytest.mark.parametrize("load", [load_flat_toml, load_run_toml])
@pytest.mark.parametrize("content", [b"rank = ", b"rank 3", b'a = "\xff"', b"\0\0\0", b"a=1\na=2", None])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, load: Any, content: bytes | None) -> None:
    path = tmp_path / "a.toml"
    path.mkdir() if content is None else path.write_bytes(content)
    error = refusal(path, load)
    assert error.code == "config_unreadable" and error.fields["file"] == str(path) and error.fields["reason"]


# -- what a run keeps ------------------------------------------------------------------------------

CONFIGS: list[dict[tuple[str, str], Any]] = [
    {},
    {("adapter", "alpha"): 8.0, ("dataset", "resolution"): 512, ("lr_schedule", "horizon_steps"): 10},
    {("adapter", "alpha"): None, ("optimizer", "text_encoder_lr"): None, ("optimizer", "lr"): 0.1 + 0.2},
    {
        ("optimizer", "options"): {"betas": [0.9, 0.999], "eps": 1e-30, "amsgrad": True, "mode": 'a"b\n', "n": -3},
        ("dataset", "held_out"): ("a" * 64, "b" * 64),
        ("dataset", "hold_out"): "auto",
        ("", "seed"): 2**63 - 1,
    },
    {
        ("dataset", "folder"): "C:\\圖片\\a 'b' \"c\" #d",
        ("dataset", "trigger_word"): "貓\u2028\x7f",
        ("export", "name"): "貓",
    },
]


@pytest.mark.parametrize("values", CONFIGS)
def test_a_run_s_config_comes_back_as_it_was(tmp_path: Path, values: dict[tuple[str, str], Any]) -> None:
    config = RunConfig().with_values(values)
    path = tmp_path / "run.toml"
    path.write_bytes(dump_run_toml(config))
    again = load_run_toml(path)
    assert again == config
    assert again.identity() == config.identity()
    assert dump_run_toml(again) == dump_run_toml(config)


def test_everything_is_written_but_what_is_none() -> None:
    plain = tomllib.loads(dump_run_toml(RunConfig()).decode())
    assert plain["seed"] == 42 and plain["cadence"] == {"save_every": 100, "save_minutes": 10.0, "keep_states": 3}
    assert "alpha" not in plain["adapter"] and "horizon_steps" not in plain["lr_schedule"]


@pytest.mark.parametrize(
    ("text", "option"),
    [("[adapter]\nrank = 0\n", "rank"), ("[adapter]\nloudness = 1\n", "adapter.loudness"), ("mood = 1\n", "mood")],
)
def test_a_run_s_config_is_checked_too(tmp_path: Path, text: str, option: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    error = refusal(path, load_run_toml)
    assert (error.code, error.fields["option"]) == ("config_value", option)
