"""Which run is meant where little was typed."""

import os
import shlex
from pathlib import Path

import pytest

from lorasmith.ui import which_run
from lorasmith.ui.translator import Translator
from lorasmith.ui.which_run import how_to_make_some, output_named, run_named, train_command, typed


def test_the_folder_s_settings_may_name_the_run(tmp_path: Path) -> None:
    settings = tmp_path / "lorasmith.toml"
    assert run_named(None, tmp_path).root == tmp_path / "lora_output"
    settings.write_text('output = "cat"')
    assert run_named(None, tmp_path).root == tmp_path / "lora_output"  # not trained there yet
    (tmp_path / "cat").mkdir()
    assert run_named(None, tmp_path).root == tmp_path / "cat"
    assert run_named("dog", tmp_path).root == tmp_path / "dog"
    for wrong in ("output = 3", "out put", ""):
        settings.write_text(wrong)
        assert run_named(None, tmp_path).root == tmp_path / "lora_output"


def test_the_newest_run_of_train_network_is_found_in_its_output_folder(tmp_path: Path) -> None:
    for age, name in enumerate(("lora_output/dog-run", "lora_output/cat-run", "loras/frog-run")):
        (tmp_path / name).mkdir(parents=True)
        ledger = tmp_path / name / "ledger.jsonl"
        ledger.write_text("")
        os.utime(ledger, (1000 - age, 1000 - age))
    assert output_named(None, tmp_path) == str(Path("lora_output/dog-run"))
    assert run_named("loras", tmp_path).root == tmp_path / "loras/frog-run"
    assert output_named("loras/frog-run", tmp_path) == "loras/frog-run"
    (tmp_path / "lora_output/ledger.jsonl").write_text("")  # a run itself
    assert output_named(None, tmp_path) is None


def test_the_shown_command_is_of_the_same_kind() -> None:
    assert train_command("lorasmith logs", None) == "lorasmith train"
    assert train_command("python check_training_logs.py", "a b") == "python train_lora.py --output 'a b'"


def test_where_there_is_none_it_is_said_how_to_make_one(tmp_path: Path) -> None:
    nothing, command = how_to_make_some(Translator("en"), run_named(None, tmp_path), train="lorasmith train")
    assert str(tmp_path / "lora_output") in nothing
    assert "`lorasmith train --new --steps" in command


def test_what_is_to_be_typed_is_about_the_run_that_was_found(tmp_path: Path) -> None:
    (tmp_path / "lorasmith.toml").write_text('output = "cat"')
    assert output_named(None, tmp_path) is None  # not trained there yet
    (tmp_path / "cat").mkdir()
    assert output_named(None, tmp_path) == "cat"
    assert output_named("dog", tmp_path) == "dog"


def test_a_shell_reads_what_was_meant() -> None:
    words = ["tensorboard", "--logdir", "我的 out/lo'gs"]
    assert shlex.split(typed(words)) == words
    assert typed(["lorasmith", "train"]) == "lorasmith train"


def test_on_windows_names_are_in_double_quotes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(which_run, "on_windows", lambda: True)
    assert typed(["cd", "D:\\示範"]) == "cd D:\\示範"
    assert typed(["cd", "D:\\my lora"]) == 'cd "D:\\my lora"'
