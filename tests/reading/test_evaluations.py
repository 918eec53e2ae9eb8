from __future__ import annotations

from dataclasses import replace
from math import hypot
from pathlib import Path

from lorasmith.reading.evaluations import (
    difference,
    error_of,
    is_held_out,
    reason_of,
    validation_changes,
    value_of,
)
from lorasmith.runs.events import Evaluated
from tests.reading.made_up import evaluated


def test_values_and_reasons(tmp_path: Path) -> None:
    event = evaluated(1, tmp_path, unavailable={"semantic": "no_clip_model", "validation": "not_finite"})
    assert value_of(event, "visual") == event.visual
    assert value_of(event, "semantic") is value_of(event, "validation") is error_of(event) is None
    assert (reason_of(event, "semantic"), reason_of(event, "visual")) == ("no_clip_model", "")
    assert is_held_out(evaluated(1, tmp_path)) and not is_held_out(event)


def test_the_error_of_a_difference_is_that_of_pairs_where_they_are_told(tmp_path: Path) -> None:
    one, other = evaluated(1, tmp_path), evaluated(1, tmp_path)
    one = replace(one, validation={"loss": 3.0, "standard_error": 2.0, "by_example": [1.0, 5.0]})
    other = replace(other, validation={"loss": 2.0, "standard_error": 2.0, "by_example": [0.0, 4.0]})
    assert difference(one, other) == (1.0, 0.0)  # every picture is 1 higher
    other = replace(other, validation={"loss": 2.0, "standard_error": 1.0})
    assert difference(one, other) == (1.0, hypot(2.0, 1.0))
    other = replace(other, validation={"loss": 2.0, "standard_error": None, "by_example": [2.0]})
    assert difference(one, other) == (1.0, None)


def test_where_the_pictures_of_the_validation_loss_changed() -> None:
    def measured(step: int, pictures: str | None) -> Evaluated:
        validation = {"loss": 1.0, "pictures": pictures} if pictures is not None else None
        return Evaluated(attempt=1, time=0.0, step=step, is_control=False, validation=validation)

    told = [measured(1, ""), measured(2, "a"), measured(3, "a"), measured(4, None), measured(5, "b"), measured(6, "b")]
    assert validation_changes(told) == (5,)
    assert validation_changes(told[:2]) == ()  # a ledger of an older version, gone on with
