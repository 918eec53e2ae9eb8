"""The tools on the command line."""

from pathlib import Path

import pytest

from lorasmith.errors import ConfigError, ExitCode
from lorasmith.messages import LANGUAGES
from lorasmith.ui.tools import convert
from lorasmith.ui.translator import Translator
from tests.lora_tools.made import write

EN = Translator("en")


@pytest.mark.parametrize("language", LANGUAGES)
def test_convert_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str], language: str) -> None:
    source, out = write(tmp_path / "in"), tmp_path / "out.safetensors"
    status = convert([str(source), str(out), "--to", "diffusers", "--precision", "bf16"], Translator(language), "x")
    shown = capsys.readouterr().out
    assert status == ExitCode.FINISHED and out.exists() and str(out) in shown and "--precision fp32" in shown


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], "files_count"),
        (["a", "b", "c", "--to", "kohya"], "files_count"),
        (["a", "b"], "option_missing"),
        (["a", "b", "--to", "else"], "option_choice"),
        (["a", "b", "--to", "kohya", "--precision", "fp8"], "option_choice"),
    ],
)
def test_bad_arguments(arguments: list[str], code: str) -> None:
    with pytest.raises(ConfigError, match=code):
        convert(arguments, EN, "lorasmith convert")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(["--help"], EN, "lorasmith convert") == ExitCode.FINISHED
    assert "IN OUT" in capsys.readouterr().out
