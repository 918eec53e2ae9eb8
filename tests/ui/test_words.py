from __future__ import annotations

from pathlib import Path

import pytest

from lorasmith.ui.words import PROBLEMS_SHOWN, Words, language_of

EN, ZH = Words("en"), Words("zh-TW")


def test_an_error_is_a_sentence_and_a_hint() -> None:
    fields = {"given": "trian", "nearest": "train"}
    assert EN.error("command_unknown", fields) == [
        "Error: Unknown command: `trian`",
        "hint: did you mean `train`?",
    ]
    assert ZH.error("command_unknown", fields)[0] == "錯誤：沒有這個指令：`trian`"


def test_problems_are_listed_up_to_a_number() -> None:
    problems = [{"path": f"{number}.png", "reason": "picture_empty", "fields": {}} for number in range(60)]
    lines = EN.error("dataset_problems", {"count": 60, "problems": problems})
    assert lines[1] == "  0.png: is empty"
    assert lines[PROBLEMS_SHOWN + 1] == "  and 10 more"
    assert len([line for line in lines if ".png" in line]) == PROBLEMS_SHOWN


def test_codes_and_fields_of_another_version_are_shown_as_they_are() -> None:
    assert EN.error("not_yet_known", {"x": 1}) == ["not_yet_known x: 1"]
    assert "`?`" in EN.error("command_unknown", {})[0]
    assert EN.problem({"path": "a", "reason": "new_reason", "fields": {"x": 1}}) == "a: new_reason x: 1"
    assert EN.warning("new_warning", {"x": 1}) == ["Warning: new_warning x: 1"]


def test_what_is_odd_about_a_file_can_be_a_warning() -> None:
    assert EN.warning("folder_reversed", {"path": "test_10", "right": "10_test"}) == [
        "Warning: test_10: is not used: the number of repeats comes first, as in `10_test`"
    ]
    skipped = {"path": "a.png", "reason": "picture_empty", "fields": {}}
    assert EN.warning("picture_skipped", skipped) == ["Warning: Left out: a.png: is empty"]


def test_a_warning_may_have_a_hint() -> None:
    assert len(EN.warning("lr_horizon_passed", {"horizon": 1, "target": 2})) == 2


@pytest.mark.parametrize(
    ("arguments", "environment", "settings", "language"),
    [
        ("--lang zh-TW", {"LORASMITH_LANG": "en"}, 'lang = "en"', "zh-TW"),
        ("--lang=zh-TW", {}, "", "zh-TW"),
        ("", {"LORASMITH_LANG": "zh-TW", "LANG": "en_US.UTF-8"}, 'lang = "en"', "zh-TW"),
        ("", {"LANG": "en_US.UTF-8"}, 'lang = "zh-TW"', "zh-TW"),
        ("", {"LANG": "zh_TW.UTF-8"}, "", "zh-TW"),
        ("", {"LANG": "zh_TW.UTF-8", "LC_ALL": "C"}, "", "en"),
        ("", {"LANG": "zh_HK"}, "steps = [", "zh-TW"),  # what is wrong with the file is told later
        ("", {"LANG": "zh_TW"}, "lang = 3", "zh-TW"),
        ("--lang", {}, "", "en"),
        ("", {"LANG": "de_DE.UTF-8"}, "", "en"),
    ],
)
def test_the_language_is_found_before_arguments_are_checked(
    tmp_path: Path, arguments: str, environment: dict[str, str], settings: str, language: str
) -> None:
    if settings:
        (tmp_path / "lorasmith.toml").write_text(settings, encoding="utf-8")
    assert language_of(arguments.split(), environment, tmp_path) == language


def test_a_field_may_be_called_key() -> None:
    for language in ("en", "zh-TW"):
        lines = Words(language).error("config_unknown_key", {"file": "a.toml", "key": "rnak", "nearest": "rank"})
        assert "rnak" in lines[0]


def test_control_characters_are_shown_escaped() -> None:
    (line,) = EN.error("config_missing", {"file": "a\x1b[2J\nb\x07\x9b.toml"})
    assert line == r"Error: There is no file `a\x1b[2J\nb\x07\x9b.toml`"
    assert EN.say("run.finished", path="a\x1b]b") == r"The LoRA is in `a\x1b]b`"
    assert EN.error("crashed", {"reason": "two\nlines\x1b"})[0].endswith("two\nlines\\x1b")
