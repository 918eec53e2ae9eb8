from __future__ import annotations

from typing import Any

import pytest

from lorasmith.errors import ConfigError
from lorasmith.ui.switches import parse_switches

KNOWN = {"follow": "", "output": "FOLDER", "no-browser": "", "lang": "en|zh-TW", "help": ""}


def test_what_was_typed() -> None:
    assert parse_switches([], KNOWN) == {}
    assert parse_switches(["--follow", "--output", "a b", "--lang=en"], KNOWN) == {
        "follow": "yes",
        "output": "a b",
        "lang": "en",
    }
    assert parse_switches(["--output="], KNOWN) == {"output": ""}
    assert parse_switches(["-h"], KNOWN) == {"help": "yes"}
    assert parse_switches(["--output", "-odd"], KNOWN) == {"output": "-odd"}


@pytest.mark.parametrize(
    ("arguments", "code", "fields"),
    [
        (["--folow"], "option_unknown", {"option": "--folow", "nearest": "--follow"}),
        (["--no_browser"], "option_unknown", {"option": "--no_browser", "nearest": "--no-browser"}),
        (["--out=x"], "option_unknown", {"option": "--out", "nearest": "--output"}),
        (["-follow"], "option_unknown", {"option": "-follow", "nearest": "--follow"}),
        (["--zzz"], "switch_unrecognised", {"option": "--zzz"}),
        (["--output", "a", "--output=b"], "switch_repeated", {"option": "output"}),
        (["-"], "argument_unexpected", {"argument": "-"}),
        (["lora_output"], "argument_unexpected", {"argument": "lora_output"}),
        (["--output"], "option_without_value", {"option": "output", "expected": "FOLDER"}),
        (["--output", "--follow"], "option_without_value", {"option": "output", "expected": "FOLDER"}),
        (["--follow=yes"], "option_flag", {"option": "follow"}),
        (["--lang", "zh_CN"], "config_value", {"option": "lang", "value": "'zh_CN'", "expected": "en, zh-TW"}),
        (["--lang", "fr"], "config_value", {"option": "lang", "value": "'fr'", "expected": "en, zh-TW"}),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], code: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_switches(arguments, KNOWN)
    assert (caught.value.code, caught.value.fields) == (code, fields)
