from __future__ import annotations

import re

import pytest

from lorasmith.adapters import ADAPTERS
from lorasmith.config import options
from lorasmith.messages import LANGUAGES
from lorasmith.ui.layout import cells
from lorasmith.ui.option_help import expectation, expected, meaning, metavar, page, shown_default, term, train_help
from lorasmith.ui.options import COMMAND_OPTIONS, option_names
from lorasmith.ui.translator import Translator

COMMON = 25  # rows of --help: a page that a newcomer reads


def rows_of(text: str) -> list[str]:
    return re.findall(r"^  --([a-z0-9-]+)", text, re.MULTILINE)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("columns", [70, 80, 200])
def test_every_option_is_there_and_fits(language: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = train_help(Translator(language), "python train_lora.py", shows_all=True)
    assert sorted(rows_of(text)) == sorted(option_names())
    assert max(cells(line) for line in text.splitlines()[1:]) <= columns


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_common_options_have_a_line_each(language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = train_help(Translator(language), "lorasmith train")
    common = [option.name for option in COMMAND_OPTIONS if option.common]
    common += [option.name for option in options().values() if option.facts.common]
    assert sorted(rows_of(text)) == sorted(common) and len(common) <= COMMON
    assert [line for line in text.splitlines() if line.startswith("   ")] == []  # no meaning is longer than its line
    assert max(cells(line) for line in text.splitlines()[1:]) <= 80
    assert "`lorasmith train --help-all`" in text and str(len(option_names())) in text


def test_defaults_come_from_the_model() -> None:
    known = options()
    shown = {name: shown_default(known[name]) for name in ("rank", "lr", "save_minutes", "lr_warmup", "enable_bucket")}
    assert shown == {"rank": "16", "lr": "0.0001", "save_minutes": "10", "lr_warmup": "0", "enable_bucket": "true"}
    assert {
        shown_default(known[name]) for name in ("alpha", "steps", "verbose", "trigger_word", "optimizer_option")
    } == {""}
    assert meaning(Translator("en"), known["rank"]).endswith(" [16]")
    assert "[" not in meaning(Translator("en"), known["verbose"])


def test_a_flag_has_no_value() -> None:
    assert (term(options()["verbose"]), term(options()["rank"])) == ("--verbose", "--rank N")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("steps", "a whole number, at least 1, at most 1000000000"),
        ("dropout", "a number, at least 0, less than 1"),
        ("alpha", "a number, more than 0"),
        ("clip-skip", "a whole number, at least 1, at most 12"),
        ("vae-tile-size", "a whole number, at least 0, a multiple of 64"),
        ("precision", "one of auto, fp32, bf16, fp16"),
        ("verbose", "true or false"),
        ("data", "text"),
        ("hold-out", "a whole number, at least 0, a share below 1, or auto"),
        ("no-such-option", ""),
    ],
)
def test_what_an_option_takes_is_read_off_the_model(name: str, text: str) -> None:
    assert expected(Translator("en"), name) == text


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_option_has_an_expectation(language: str) -> None:
    assert all(expectation(Translator(language), option) for option in options().values())


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_kind_of_adapter_is_named(language: str) -> None:
    text = expected(Translator(language), "adapter")
    assert [kind for kind in ADAPTERS if kind not in text] == []


def test_what_stands_for_a_value() -> None:
    known = options()
    names = ("steps", "lr", "data", "name", "trigger_word", "hold_out", "lang", "optimizer_option")
    assert [metavar(known[name]) for name in names] == ["N", "X", "PATH", "NAME", "TEXT", "N|auto", "en|zh-TW", "K=V"]


def test_every_option_has_a_row_in_each_language_of_the_page() -> None:
    text = page()
    for name in option_names():
        assert len(re.findall(rf"^\| `--{name}[ `]", text, re.MULTILINE)) == 2


def test_a_pipe_does_not_end_a_cell() -> None:
    row = next(line for line in page().splitlines() if line.startswith("| `--precision"))
    assert row.replace(r"\|", "").count("|") == 6
