from __future__ import annotations

import pytest

from lorasmith.config import options
from lorasmith.messages import LANGUAGES
from lorasmith.ui.expected import expectation, expected, is_flag, is_repeated, metavar
from lorasmith.ui.translator import Translator


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("steps", "a whole number, at least 1, at most 1000000000"),
        ("dropout", "a number, at least 0, less than 1"),
        ("alpha", "a number, more than 0"),
        ("clip-skip", "a whole number, at least 1, at most 12"),
        ("precision", "one of auto, fp32, bf16, fp16"),
        ("verbose", "true or false"),
        ("data", "text"),
        ("hold-out", "a whole number from 0 on, or auto"),
        ("no-such-option", ""),
    ],
)
def test_what_an_option_takes_is_read_off_the_model(name: str, text: str) -> None:
    assert expected(Translator("en"), name) == text


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_option_has_an_expectation(language: str) -> None:
    assert all(expectation(Translator(language), option) for option in options().values())


def test_what_stands_for_a_value() -> None:
    known = options()
    shown = {name: metavar(known[name]) for name in ("steps", "lr", "name", "hold_out", "lang", "optimizer_option")}
    assert shown == {
        "steps": "N",
        "lr": "X",
        "name": "TEXT",
        "hold_out": "N|auto",
        "lang": "en|zh-TW",
        "optimizer_option": "K=V",
    }
    assert is_flag(known["verbose"]) and not is_flag(known["steps"])
    assert is_repeated(known["optimizer_option"]) and not is_repeated(known["steps"])
