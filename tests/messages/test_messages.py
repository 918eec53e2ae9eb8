from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from lorasmith import messages
from lorasmith.messages import choose_language, has, keys, template, tr


def test_a_code_and_fields_become_a_sentence() -> None:
    assert tr("en", "run.reached", steps=5) == "Reached the maximum of 5 steps"
    assert tr("zh-TW", "run.reached", steps=5) == "達到最大訓練步數 5"


def test_a_field_that_is_missing_or_a_key_that_is_not_there_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError):
        tr("en", "run.reached")
    with pytest.raises(KeyError):
        tr("en", "no.such.key")


def test_hints_are_optional() -> None:
    assert has("en", "error.config_unknown_key.hint")
    assert not has("en", "error.config_missing.hint")
    assert "run.reached" in keys("en")
    assert "{steps}" in template("en", "run.reached")


@pytest.mark.parametrize(
    ("asked", "configured", "environment", "language"),
    [
        ("zh-TW", "en", {"LORASMITH_LANG": "en", "LANG": "en_US"}, "zh-TW"),
        ("", "en", {"LORASMITH_LANG": "zh-TW", "LANG": "en_US"}, "zh-TW"),
        ("", "zh-TW", {"LANG": "en_US"}, "zh-TW"),
        ("", "", {"LANG": "zh_TW.UTF-8"}, "zh-TW"),
        ("", "", {"LANG": "zh_Hant_HK"}, "zh-TW"),
        ("", "", {"LANG": "zh_CN.UTF-8"}, "en"),
        ("", "", {"LC_ALL": "C", "LANG": "zh_TW"}, "en"),
        ("", "", {"LC_MESSAGES": "zh_TW", "LANG": "en_US"}, "zh-TW"),
        ("zh_TW", "en", {}, "zh-TW"),
        ("", "en", {"LORASMITH_LANG": "zh-hant"}, "zh-TW"),
        ("", "zh_tw", {"LANG": "en_US"}, "zh-TW"),
        ("nonsense", "nonsense", {}, "en"),
    ],
)
def test_who_chooses_the_language(asked: str, configured: str, environment: dict[str, str], language: str) -> None:
    assert choose_language(asked, configured, environment) == language


@pytest.mark.parametrize("language", ["en", "zh_TW"])
def test_a_sentence_stands_in_one_file(language: str) -> None:
    """A second one of the same key would silently win by the order of the files' names."""
    tables: list[str] = []
    for file in sorted((Path(messages.__file__).parent / language).glob("*.toml")):
        tables += tomllib.loads(file.read_text(encoding="utf-8"))
    assert len(tables) == len(set(tables)), tables
