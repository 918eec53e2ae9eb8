from __future__ import annotations

import pytest

from lorasmith.config import options
from lorasmith.messages import LANGUAGES
from lorasmith.ui.help_text import meaning, shown_default, term, train_help
from lorasmith.ui.layout import cells
from lorasmith.ui.options import COMMAND_OPTIONS
from lorasmith.ui.translator import Translator


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("columns", [70, 80, 200])
def test_every_option_is_there_and_fits(language: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = train_help(Translator(language), "python train_lora.py")
    for name in [*COMMAND_OPTIONS, *(option.name for option in options().values())]:
        assert f"\n  --{name}" in text
    assert max(cells(line) for line in text.splitlines()[1:]) <= columns


def test_defaults_come_from_the_model() -> None:
    known = options()
    shown = {name: shown_default(known[name]) for name in ("rank", "lr", "save_minutes", "lr_warmup", "dropout")}
    assert shown == {"rank": "16", "lr": "0.0001", "save_minutes": "10", "lr_warmup": "0", "dropout": "0"}
    assert {
        shown_default(known[name]) for name in ("alpha", "steps", "verbose", "trigger_word", "optimizer_option")
    } == {""}
    assert meaning(Translator("en"), known["rank"]).endswith(" [16]")
    assert "[" not in meaning(Translator("en"), known["verbose"])


def test_a_flag_has_no_value() -> None:
    assert (term(options()["verbose"]), term(options()["rank"])) == ("--verbose", "--rank N")
