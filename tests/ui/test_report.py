from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorasmith.errors import ConfigError, ExitCode, NoStateError, ResourceError
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.locks import FolderLock
from lorasmith.ui.report import report
from lorasmith.ui.translator import Translator
from tests.reading.made_up import evaluated, finished, started, stepped, watched, written

COMMAND = "lorasmith report"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run_of(root: Path) -> RunFolder:
    return written(root, [started(root, 9), *stepped(range(1, 6)), evaluated(5, root)], watched(1, status=-9))


def test_everything_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path / "lora_output")
    assert report([], Translator("en"), COMMAND) == ExitCode.FINISHED
    assert len(run.loss_log.read_text().splitlines()) == 6
    assert len(list(run.tensorboard.iterdir())) == 1
    (made,) = run.training_logs.glob("*.json")
    assert json.loads(made.read_bytes())["done"] == 5
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["Updated: `lora_output/logs`", "Updated: `training_logs/training_loss_log.txt`"]
    assert said[2].startswith("Report: `training_logs/lora_training_report_") and said[2].endswith(".html`")
    assert len(said) == 5


def test_another_run_in_another_language(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = written(tmp_path / "other", finished(tmp_path, steps=8), watched(1))
    assert report(["--output", "other"], Translator("zh-TW"), COMMAND) == 0
    assert run.training_logs == tmp_path / "training_logs" / "other"
    (page,) = run.training_logs.glob("*.html")
    assert 'lang="zh-TW"' in page.read_text(encoding="utf-8")
    assert "報告" in capsys.readouterr().out


def test_of_a_run_that_is_going_on_only_the_report_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path / "lora_output")
    with FolderLock(run.lock):
        assert report([], Translator("en"), COMMAND) == 0
    assert not run.tensorboard.exists() and not run.loss_log.exists()
    assert len(list(run.training_logs.iterdir())) == 3
    assert "still in progress" in capsys.readouterr().out


def test_without_a_run_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(NoStateError, match="no_run_to_report"):
        report([], Translator("en"), COMMAND)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path / "lora_output")
    run.training_logs.write_text("a file in its place")
    with pytest.raises(ResourceError, match="report_not_made"):
        report([], Translator("en"), COMMAND)
    assert "Cannot write the report" in capsys.readouterr().out


def test_help_and_bad_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(["--help"], Translator("en"), COMMAND) == 0
    assert "--output" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="option_unknown"):
        report(["--outptu", "x"], Translator("en"), COMMAND)
