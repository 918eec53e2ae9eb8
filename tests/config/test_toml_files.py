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
        ("batch", "batch_size"),
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
    assert error.fields["nearest"] == nearest


@pytest.mark.parametrize(
    ("key", "code", "fields"),
    [
        ("learning_rate", "config_foreign_key", {"ours": "lr"}),
        ("network_dim", "config_foreign_key", {"ours": "rank"}),
        ("resume", "config_foreign_key", {"ours": "--continue"}),
        ("v_parameterization", "config_foreign_key", {"ours": "prediction v_prediction"}),
        ("xformers", "config_needless_key", {}),
        ("blocks_to_swap", "config_unrecognised_key", {}),
        ("neww", "config_unrecognised_key", {}),
    ],
)
def test_another_trainer_s_key_is_answered_with_ours_and_nothing_far_fetched(
    tmp_path: Path, key: str, code: str, fields: dict[str, str]
) -> None:
    path = tmp_path / "a.toml"
    path.write_text(f"{key} = 3\n")
    error = refusal(path)
    assert (error.code, error.fields) == (code, {"file": str(path), "key": key, **fields})


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (r'base_model = "C:\Users\me\sd.safetensors"'.replace("\\\\", "\\"), "config_backslash"),
        (r'data = "D:\pictures\cat"'.replace("\\\\", "\\"), "config_backslash"),
        ('data = "D:\\"', "config_backslash"),
        (r'base_model = "C:\new\base.safetensors"'.replace("\\\\", "\\"), "config_control_sign"),
        (r'output = "D:\table"'.replace("\\\\", "\\"), "config_control_sign"),
    ],
)
def test_a_path_of_windows_in_double_quotes(tmp_path: Path, line: str, code: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(f"rank = 3\n{line}\n")
    error = refusal(path)
    assert error.code == code
    if code == "config_backslash":
        assert error.fields["line"] == line
    path.write_text("rank = 3\n" + line.replace('"', "'"))
    assert list(load_flat_toml(path))[1][0] in ("model", "dataset", "request")


@pytest.mark.parametrize(
    "line",
    [
        "base_model = D:/sd.safetensors",
        "base_model = “sd.safetensors”",
        "base_model = 'sd.safetensors’",
        "name = 「貓」",
        "base_model： 'sd.safetensors'",
        "base_model: sd.safetensors",
        "base_model ＝ 'sd.safetensors'",
    ],
)
def test_a_value_without_straight_quotes(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(f"rank = 3\n{line}\n", encoding="utf-8")
    error = refusal(path)
    assert (error.code, error.fields) == ("config_quotes", {"file": str(path), "line": line})


def test_a_path_with_a_control_character_that_is_there_is_meant(tmp_path: Path) -> None:
    (tmp_path / "a\tb").mkdir()
    path = tmp_path / "a.toml"
    path.write_text('data = "a\\tb"')
    assert load_flat_toml(path) == {("dataset", "folder"): "a\tb"}


@pytest.mark.parametrize("encoding", ["utf-16", "cp950"])
def test_another_encoding_is_named(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes('trigger_word = "貓"'.encode(encoding))
    assert refusal(path).code == "config_encoding"


def test_sections_are_for_run_toml_only(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("[training]\nbatch_size = 3\n")
    assert refusal(path).fields["key"] == "training"


@pytest.mark.parametrize("load", [load_flat_toml, load_run_toml])
def test_a_missing_file_is_named(tmp_path: Path, load: Any) -> None:
    error = refusal(tmp_path / "no.toml", load)
    assert (error.code, error.fields) == ("config_missing", {"file": str(tmp_path / "no.toml")})


@pytest.mark.parametrize("load", [load_flat_toml, load_run_toml])
@pytest.mark.parametrize("content", [b"rank = ", b"rank 3", b"\0\0\0", b"a=1\na=2", None])
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
    assert plain["seed"] == 42 and plain["watch"] == {
        "stall_timeout": 300.0,
        "max_seconds_per_step": 30.0,
        "no_restart": False,
    }
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


@pytest.mark.parametrize(("line", "form"), [("fp8_base = true", "fp8"), ("fp8_base = false", "auto")])
def test_frozen_weights_in_8_bits_as_first_runs_recorded_them(tmp_path: Path, line: str, form: str) -> None:
    path = tmp_path / "run.toml"
    text = dump_run_toml(RunConfig()).decode().replace('base_precision = "auto"', line)
    assert line in text
    path.write_text(text, encoding="utf-8")
    assert load_run_toml(path).model.base_precision == form
