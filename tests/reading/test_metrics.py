from __future__ import annotations

import random
from dataclasses import replace
from math import hypot
from pathlib import Path

import pytest

from lorasmith.reading.metrics import (
    difference,
    error_of,
    is_held_out,
    reason_of,
    summarize,
    trend_of,
    validation_changes,
    value_of,
)
from lorasmith.runs.events import Evaluated
from tests.reading.made_up import evaluated


def test_a_curve_in_numbers() -> None:
    found = summarize([10, 20, 30], [3.0, 1.0, 2.0], baseline=4.0)
    assert (found.count, found.first, found.final, found.final_step) == (3, 3.0, 2.0, 30)
    assert (found.least, found.least_step, found.mean, found.share_of_baseline) == (1.0, 20, 2.0, 0.5)
    assert found.trend == "too_few"


def test_nothing_stays_nothing() -> None:
    found = summarize([], [], baseline=4.0)
    assert (found.count, found.final, found.mean, found.baseline) == (0, None, None, 4.0)
    assert summarize([1], [0.5], baseline=0.0).share_of_baseline is None


def test_first_last_and_lowest_are_of_the_smooth_curve() -> None:
    found = summarize([1, 2], [9.0, 1.0], smooth=[9.0, 5.0])
    assert (found.final, found.least, found.mean) == (5.0, 5.0, 5.0)


@pytest.mark.parametrize(("slope", "expected"), [(-0.02, "falling"), (0.02, "rising")])
def test_a_trend_is_seen_through_noise(slope: float, expected: str) -> None:
    noise = random.Random(1)
    assert trend_of([slope * step + noise.gauss(0, 0.3) for step in range(200)]) == expected


def test_noise_alone_is_rarely_a_trend() -> None:
    noise = random.Random(2)
    found = [trend_of([noise.random() for _ in range(60)]) for _ in range(100)]
    assert found.count("level") > 80
    assert trend_of([1.0] * 20) == "level"
    assert trend_of([1.0, 0.5, 0.2]) == "too_few"


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
