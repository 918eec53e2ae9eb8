from __future__ import annotations

import random

import pytest

from lorasmith.reading.statistics import seconds_of, summarize, trend_of


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


def test_seconds() -> None:
    assert seconds_of([1, 2, 3], [1.0, 6.0, 2.0]) == (2.0, 3.0, 6.0, 2)
    assert seconds_of([], []) == (None, None, None, None)
