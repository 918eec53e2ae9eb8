from __future__ import annotations

import stat
import tomllib
from pathlib import Path

import pytest

from lorasmith.config import RunConfig
from lorasmith.errors import ConfigError
from lorasmith.runs.layout import RunFolder
from lorasmith.runtime.preflight import Start
from lorasmith.ui.folder_settings import read_folder_settings, remember_base_model, with_notice


def test_no_file_no_settings(tmp_path: Path) -> None:
    assert read_folder_settings(tmp_path) == {}


def test_settings_are_read_and_unknown_ones_refused(tmp_path: Path) -> None:
    file = tmp_path / "lorasmith.toml"
    file.write_text('base_model = "demo"\n')
    assert read_folder_settings(tmp_path) == {("model", "base_model"): "demo"}
    file.write_text("rnak = 4\n")
    with pytest.raises(ConfigError) as caught:
        read_folder_settings(tmp_path)
    assert caught.value.fields["nearest"] == "rank"


def test_a_file_that_an_editor_named_txt_is_not_overlooked(tmp_path: Path) -> None:
    misnamed = tmp_path / "lorasmith.toml.txt"
    misnamed.write_text('base_model = "demo"\n')
    with pytest.raises(ConfigError) as caught:
        read_folder_settings(tmp_path)
    assert (caught.value.code, caught.value.fields) == ("config_named_txt", {"file": str(misnamed)})
    (tmp_path / "lorasmith.toml").write_text('base_model = "demo"\n')
    assert read_folder_settings(tmp_path) == {("model", "base_model"): "demo"}


def test_the_answer_makes_the_file(tmp_path: Path) -> None:
    answer = 'C:\\models\\my "best" 模型.safetensors'
    assert remember_base_model(tmp_path, answer)
    assert read_folder_settings(tmp_path) == {("model", "base_model"): answer}


@pytest.mark.parametrize("before", ["# mine\nrank = 4\n", "rank = 4", "rank = 4\r\n", "", "\ufeffrank = 4\n"])
def test_a_line_is_added_and_nothing_else_changed(tmp_path: Path, before: str) -> None:
    file = tmp_path / "lorasmith.toml"
    file.write_bytes(before.encode())
    file.chmod(0o600)
    assert remember_base_model(tmp_path, "demo")
    assert file.read_bytes().startswith(before.encode())
    assert tomllib.loads(file.read_text(encoding="utf-8-sig"))["base_model"] == "demo"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_it_does_not_fall_into_a_table(tmp_path: Path) -> None:
    file = tmp_path / "lorasmith.toml"
    before = "rank = 4\n[optimizer_option]\nweight_decay = 0.1\n"
    file.write_text(before)
    assert remember_base_model(tmp_path, "demo")
    assert file.read_text().endswith(before)
    assert read_folder_settings(tmp_path)["optimizer", "options"] == {"weight_decay": 0.1}
    assert read_folder_settings(tmp_path)["model", "base_model"] == "demo"


def test_a_file_without_a_place_for_it_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "lorasmith.toml"
    file.write_text('base_model = ""\n')
    assert not remember_base_model(tmp_path, "demo")
    assert file.read_text() == 'base_model = ""\n'


def test_what_a_run_that_goes_on_does_not_read_is_named(tmp_path: Path) -> None:
    start = Start(RunFolder(tmp_path / "lora_output"), RunConfig(), 9, is_new=False, first_step=3)
    assert with_notice(start, {}, tmp_path) == start
    (tmp_path / "lorasmith.toml").write_text('rank = 16\nlr = 0.5\nlr_warmup = 3\nlang = "zh-TW"\n')
    notice = ("settings_differ", {"file": "lorasmith.toml", "keys": ["lr", "lr_warmup"]})
    assert with_notice(start, {}, tmp_path).warnings == (notice,)
    named = {("optimizer", "lr"): 0.1, ("lr_schedule", "warmup_steps"): 1}
    assert with_notice(start, named, tmp_path) == start
    (tmp_path / "lorasmith.toml").write_text("rnak = 4\n")  # it would be an error with --new
    assert with_notice(start, {}, tmp_path) == start
