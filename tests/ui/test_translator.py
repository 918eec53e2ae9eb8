from __future__ import annotations

import sys

import pytest

from lorasmith.ui.translator import PROBLEMS_SHOWN, Translator

EN, ZH = Translator("en"), Translator("zh-TW")


def test_state_folders_have_a_name_that_the_locale_can_write(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Translator("zh-TW").state_prefix == "狀態目錄"
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    assert Translator("zh-TW").state_prefix == Translator("en").state_prefix == "state"


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


def test_a_finding_names_how_many_the_first_and_what_to_do() -> None:
    fields = {"count": 5, "files": ["a.cr2", "b.psd", "c.psd"], "kinds": ".cr2, .psd \u00d74"}
    assert EN.finding("kind_unreadable", fields) == [
        "Note: files of a type that no picture is read from, not used: 5 (.cr2, .psd \u00d74)",
        "  a.cr2, b.psd, c.psd, and 2 more",
        "  hint: save as PNG or JPEG what you want to train on",
    ]
    assert EN.warning("kind_unreadable", fields) == EN.finding("kind_unreadable", fields)


def test_long_names_have_a_line_each() -> None:
    names = [letter * 40 + ".txt" for letter in "abc"]
    assert EN.finding("captions_alone", {"count": 4, "files": names})[1:] == [
        *(f"  {name}" for name in names),
        "  and 1 more",
    ]


def test_prompts_have_no_names() -> None:
    fields = {"count": 2, "limit": 75, "tag": "hat"}
    assert EN.finding("prompts_cut", fields) == [
        "Note: sample prompts of more than 75 tokens: 2; the first is cut off at `hat`"
    ]


def test_equal_files_stand_together() -> None:
    fields = {"count": 3, "groups": [["a.png", "b.png"], ["c.png", "d.png"]], "more": 1}
    assert EN.finding("duplicates", fields)[1] == "  a.png = b.png, c.png = d.png, and 1 more"


def test_damage_names_the_file_and_what_differs() -> None:
    fields = {"state": "state_1", "aside": "state_1.damaged", "damage": "content:optimizer.pt"}
    assert EN.warning("state_set_aside", fields) == [
        "Warning: The state `state_1` is damaged: `optimizer.pt` does not contain the bytes that were saved: "
        "its SHA-256 differs. It was renamed to `state_1.damaged`, and an older state is used"
    ]
    problems = [{"path": "state_1", "reason": "state_damaged", "fields": {"damage": "missing:adapter.safetensors"}}]
    lines = EN.error("no_usable_state", {"folder": "f", "problems": problems})
    assert lines[1] == "  state_1: `adapter.safetensors` is missing"
    assert (
        "`train_state.json` cannot be read" in EN.error("state_damaged", {"path": "p", "damage": "train_state.json"})[0]
    )


def test_what_was_left_out_is_a_warning() -> None:
    skipped = {"path": "a.png", "reason": "picture_empty", "fields": {}}
    assert EN.warning("picture_skipped", skipped) == ["Warning: Skipped: a.png: is empty"]


def test_a_warning_may_have_a_hint() -> None:
    assert len(EN.warning("lr_horizon_passed", {"horizon": 1, "target": 2})) == 2


def test_a_field_may_be_called_key() -> None:
    for language in ("en", "zh-TW"):
        lines = Translator(language).error("config_unknown_key", {"file": "a.toml", "key": "rnak", "nearest": "rank"})
        assert "rnak" in lines[0]


def test_control_characters_are_shown_escaped() -> None:
    (line,) = EN.error("config_missing", {"file": "a\x1b[2J\nb\x07\x9b.toml"})
    assert line == r"Error: There is no file `a\x1b[2J\nb\x07\x9b.toml`"
    assert EN.say("run.finished", path="a\x1b]b") == r"The LoRA is in `a\x1b]b`"
    assert EN.error("crashed", {"reason": "two\nlines\x1b"})[0].endswith("two\nlines\\x1b")


def test_options_are_named_as_they_are_typed_but_for_those_of_continue() -> None:
    words = Translator("en").naming({"lr": "learning_rate"})
    assert "`--learning_rate 1`" in words.warning("prodigy_lr", {"lr": 2})[0]
    assert "`--lr`" in words.error("weights_non_finite", {"step": 1})[1]
    fields = {"cause": "--lr 1", "options": ["--lr", "--rank"]}
    assert words.warning("bucket_options_unused", fields)[0].endswith("_rate 1`: `--learning_rate`, `--rank`")


def test_a_phase_is_named_in_words() -> None:
    fields = {"seconds": 9, "step": 4, "restarts": 3}
    assert "(phase: saving a state)" in EN.error("stuck", {**fields, "phase": "saving"})[0]
    assert "(phase: dreaming)" in EN.error("stuck", {**fields, "phase": "dreaming"})[0]
