"""`lorasmith inspect` on the screen."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lorasmith.errors import ConfigError, ExitCode
from lorasmith.messages import LANGUAGES
from lorasmith.ui.inspect import inspect
from lorasmith.ui.translator import Translator
from tests.lora_tools.made import tensors_of, write


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_file_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str], language: str) -> None:
    path = write(tmp_path / "a.safetensors", metadata={"ss_base_model_version": "sd_v1", "ss_steps": "\x1b[2J7"})
    assert inspect([str(path)], Translator(language), "lorasmith inspect") == ExitCode.FINISHED
    shown = capsys.readouterr().out
    assert "SD 1.x" in shown and "mid_block" in shown and "lora" in shown and "\x1b[2J" not in shown
    assert Translator(language).say("inspect.nothing_odd") in shown


@pytest.mark.parametrize("language", LANGUAGES)
def test_differences_are_named_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str], language: str) -> None:
    words, tensors = Translator(language), tensors_of()
    name = next(iter(tensors)).partition(".")[0]
    tensors |= {f"{name}.diff_b": torch.ones(320), "lora_unet_norm.diff": torch.ones(8)}
    inspect([str(write(tmp_path / "a.safetensors", tensors))], words, "lorasmith inspect")
    shown = "".join(capsys.readouterr().out.split())
    for kind in ("vector", "bias"):
        counted = words.say("inspect.counted", what=words.say(f"inspect.difference.{kind}"), count=1)
        assert "".join(counted.split()) in shown
    assert "incomplete" not in shown


def test_what_is_odd_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.safetensors", tensors_of(alpha=None), metadata={})
    inspect([str(path)], Translator("en"), "lorasmith inspect")
    shown = capsys.readouterr().out
    assert "No layer has an alpha" in shown and "no metadata" in shown


def test_parts_are_named_in_the_language_of_the_reader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = tensors_of()
    key = next(key for key in tensors if key.startswith("lora_unet") and key.endswith("alpha"))
    path = write(tmp_path / "a.safetensors", {**tensors, key: tensors[key] + 1})
    inspect([str(path)], Translator("zh-TW"), "lorasmith inspect")
    shown = capsys.readouterr().out
    assert "去雜訊網路 的 alpha" in shown and "denoiser" not in shown
    assert "（2）、" in shown


def test_json_is_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(write(tmp_path / name)) for name in ("a", "b")]
    inspect([*files, "--json"], Translator("en"), "lorasmith inspect")
    found = json.loads(capsys.readouterr().out)
    assert [entry["path"] for entry in found] == files


def test_a_bad_file_does_not_hide_the_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad").write_bytes(b"<html><body>")
    good = write(tmp_path / "good")
    status = inspect([str(tmp_path / "bad"), str(tmp_path / "gone"), str(good)], Translator("en"), "lorasmith inspect")
    captured = capsys.readouterr()
    assert status == ExitCode.BAD_INPUT and "SD 1.x" in captured.out and captured.err.count("Error:") == 2


def test_a_command_without_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="files_missing"):
        inspect([], Translator("en"), "lorasmith inspect")


def test_no_torch_is_loaded(tmp_path: Path) -> None:
    program = "import sys; from lorasmith.ui.cli import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", program, "inspect", str(write(tmp_path / "a"))]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
