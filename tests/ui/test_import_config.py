import json
from pathlib import Path

import pytest

from lorasmith.config import load_flat_toml
from lorasmith.errors import ConfigError, ExitCode
from lorasmith.messages import LANGUAGES
from lorasmith.ui.import_config import import_config
from lorasmith.ui.translator import Translator
from tests.other_trainers.test_kohya_ss import FORM

EN = Translator("en")


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_says_what_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str], language: str) -> None:
    (tmp_path / "form.json").write_text(json.dumps({**FORM, "log_with": "wandb", "additional_parameters": "--foo"}))
    words = Translator(language)
    assert import_config(["form.json"], words, "lorasmith import", here=tmp_path) == ExitCode.FINISHED
    shown = capsys.readouterr().out
    path = tmp_path / "lorasmith.toml"
    text = path.read_text(encoding="utf-8")
    for left in ("log_with = wandb", "additional_parameters = --foo"):
        assert left in shown and f"# {left}" in text
    assert load_flat_toml(path)["adapter", "rank"] == 24
    with pytest.raises(ConfigError) as caught:
        import_config(["form.json"], words, "lorasmith import", here=tmp_path)
    assert caught.value.code == "import_exists" and path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("arguments", "code"), [([], "import_files"), (["a", "b"], "import_files"), (["a", "--too", "b"], "option_unknown")]
)
def test_bad_arguments(tmp_path: Path, arguments: list[str], code: str) -> None:
    with pytest.raises(ConfigError, match=code):
        import_config(arguments, EN, "lorasmith import", here=tmp_path)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert import_config(["--help"], EN, "lorasmith import") == ExitCode.FINISHED
    assert "--to FILE" in capsys.readouterr().out
