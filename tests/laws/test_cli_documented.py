"""Every option is explained in both languages and stands in docs/options.md."""

from __future__ import annotations

from lorasmith.config import options
from lorasmith.messages import LANGUAGES, keys
from lorasmith.ui.cli import COMMANDS
from lorasmith.ui.option_help import page
from lorasmith.ui.options import COMMAND_OPTIONS
from tests.laws.source_tree import ROOT


def test_every_option_has_help_in_every_language_and_no_help_is_for_nothing() -> None:
    expected = {f"option.{key}" for key in [*options(), *(own.name for own in COMMAND_OPTIONS)]}
    for language in LANGUAGES:
        assert {key for key in keys(language) if key.startswith("option.")} == expected


def test_what_an_option_takes_is_not_said_of_one_that_is_gone() -> None:
    for language in LANGUAGES:
        said = {key.removeprefix("expected.of.") for key in keys(language) if key.startswith("expected.of.")}
        assert said <= set(options())


def test_every_command_has_help_in_every_language() -> None:
    for language in LANGUAGES:
        assert {key for key in keys(language) if key.startswith("command.")} == {f"command.{name}" for name in COMMANDS}


def test_the_page_of_options_is_what_the_model_says() -> None:
    written = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert written == page(), "run `python -m lorasmith.ui.option_help > docs/options.md`"
