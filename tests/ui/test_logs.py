from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lorasmith.errors import ConfigError
from lorasmith.messages import LANGUAGES
from lorasmith.runs.locks import FolderLock
from lorasmith.ui.logs import logs
from lorasmith.ui.translator import Translator
from tests.reading.made_runs import add, beat, begun, ended, finished_run, made_run, stepped

ROOT = Path(__file__).parents[2]
WORDS = Translator("en")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *arguments: str, command: str = "lorasmith logs", **how: Any) -> str:
    assert logs(list(arguments), WORDS, command, **how) == 0
    return capsys.readouterr().out


def test_the_last_run_of_this_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished_run(here / "lora_output")
    assert told(capsys).startswith("`lora_output`: finished, 20 of 20 steps\n")


def test_a_run_elsewhere(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished_run(here / "my runs" / "cat")
    text = told(capsys, "--output", "my runs/cat")
    assert text.startswith(f"`{Path('my runs/cat')}`: finished")


def test_no_logs_says_how_to_make_some(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, command="python check_training_logs.py")
    assert str(here / "lora_output") in text and "`python train_lora.py --new --steps 100`" in text
    text = told(capsys, "--output", "a b")
    assert "`lorasmith train --output 'a b' --new --steps 100`" in text
    assert list(here.iterdir()) == []


def test_json_is_one_object_and_nothing_else(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(told(capsys, "--json"))["standing"] == "none"
    finished_run(here / "lora_output")
    assert json.loads(told(capsys, "--json"))["steps"]["done"] == 20


class Playing:
    """Stands in for the time between two looks: at each, the run does something more."""

    def __init__(self, *acts: Any) -> None:
        self._acts = list(acts)

    def __call__(self, seconds: float) -> None:
        assert seconds > 0
        self._acts.pop(0)()


def test_following_to_the_end(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_run(here / "lora_output", [begun(6), *stepped(1, 4)])
    beat(run, 4, "step")
    lock = FolderLock(run.lock)
    lock.__enter__()
    play = Playing(
        lambda: add(run.ledger, *stepped(5, 6)),
        lambda: add(run.ledger, ended(6)),
        lambda: lock.__exit__(None, None, None),
    )
    text = told(capsys, "--follow", wait=play)
    assert text.startswith("4 of 6 steps  loss 0.9960")
    assert "`lora_output`: finished, 6 of 6 steps" in text


def test_following_as_json_waits_for_the_end(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_run(here / "lora_output", [begun(6), *stepped(1, 4)])
    beat(run, 4, "step")
    lock = FolderLock(run.lock)
    lock.__enter__()

    def end() -> None:
        add(run.ledger, *stepped(5, 6), ended(6))
        lock.__exit__(None, None, None)

    facts = json.loads(told(capsys, "--follow", "--json", wait=Playing(end)))
    assert (facts["standing"], facts["steps"]["done"]) == ("finished", 6)


def test_ctrl_c_leaves_and_the_run_goes_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_run(here / "lora_output", [begun(6), *stepped(1, 4)])
    beat(run, 4, "step")

    def leave() -> None:
        raise KeyboardInterrupt

    with FolderLock(run.lock):
        text = told(capsys, "--follow", wait=Playing(leave))
    assert "`lora_output`: training (computing a step)" in text


def test_following_what_does_not_run_ends_at_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "There is no training" in told(capsys, "--follow", wait=Playing())
    finished_run(here / "lora_output")
    assert told(capsys, "--follow", wait=Playing()) == told(capsys)


def test_a_menu_needs_somebody_to_choose(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished_run(here / "lora_output")
    assert told(capsys, "--menu") == told(capsys)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match="option_unknown"):
        logs(["--folow"], WORDS, "lorasmith logs")


@pytest.mark.parametrize("language", LANGUAGES)
def test_help_names_every_option(language: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert logs(["--help"], Translator(language), "lorasmith logs") == 0
    page = capsys.readouterr().out
    for option in ("--follow", "--json", "--menu", "--output FOLDER", "--lang en|zh-TW", "--help"):
        assert option in page


def test_help_loads_nothing_heavy() -> None:
    program = """
import sys
from lorasmith.ui.cli import main
assert main(["logs", "--help"]) == 0
heavy = {"torch", "rich", "tensorboard", "PIL", "pydantic", "numpy", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_page_needs_no_torch(here: Path) -> None:
    finished_run(here / "lora_output")
    program = "import sys\nsys.modules['torch'] = None\nfrom lorasmith.ui.cli import main\nsys.exit(main(['logs']))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LORASMITH_LANG": "zh-TW", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "訓練完成" in done.stdout
