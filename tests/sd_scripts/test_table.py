from __future__ import annotations

from lorasmith.config import options
from lorasmith.messages import keys
from lorasmith.sd_scripts.arguments import arguments
from lorasmith.sd_scripts.table import DONE, HARMLESS, NO_EFFECT, REFUSED, names_of_options

OF_THE_COMMAND = {"continue", "from"}  # options of `train` that are no settings


def test_every_argument_is_in_exactly_one_table() -> None:
    tables = [*DONE, *NO_EFFECT, *REFUSED]
    assert sorted(tables) == sorted(arguments())


def test_what_is_done_is_an_option() -> None:
    known = {option.name for option in options().values()} | OF_THE_COMMAND
    assert {option for row in DONE.values() for option in row.options} <= known
    assert all(row.options for row in DONE.values() if row.is_direct)


def test_every_reason_and_note_has_its_sentence() -> None:
    notes = {f"sd_scripts.note.{row.note}" for row in DONE.values() if row.note}
    assert notes | {f"warning.{row.note}.text" for row in NO_EFFECT.values()} <= keys("en")
    assert {f"error.{row.reason}.text" for row in REFUSED.values()} <= keys("en")


def test_harmless_values_are_those_of_arguments_that_do_nothing() -> None:
    assert set(HARMLESS) <= {*REFUSED, *NO_EFFECT}
    for name, values in HARMLESS.items():
        choices = arguments()[name].choices
        assert not choices or set(values) <= set(choices)


def test_options_are_named_as_the_script_names_them() -> None:
    assert names_of_options()["vae"] == "vae" and "text-encoder" not in names_of_options("train_network")
    flux = names_of_options("flux_train_network")
    assert (flux["vae"], flux["text-encoder"]) == ("ae", "clip_l / --t5xxl")
    assert names_of_options("anima_train_network")["text-encoder"] == "qwen3"
