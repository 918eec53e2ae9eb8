from __future__ import annotations

import pytest

from lorasmith.reports.translator import (
    byte_size,
    distinct,
    duration,
    file_name,
    local_time,
    loss_text,
    percent,
    setting_text,
    short,
    with_error,
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0, "0"),
        (0.12345, "0.123"),
        (12345.6, "12346"),
        (1e-4, "0.0001"),
        (2.5e-5, "2.5e-05"),
        (100.0, "100"),
    ],
)
def test_short_numbers(value: float | None, shown: str) -> None:
    assert short(value) == shown


def test_numbers_of_an_axis_are_shown_where_they_are() -> None:
    assert distinct([0.965, 0.9675, 0.97]) == ["0.965", "0.9675", "0.97"]
    assert distinct([0.1, 0.1 + 0.2, 0.5]) == ["0.1", "0.3", "0.5"]
    assert distinct([0.5]) == ["0.5"]


def test_losses_line_up_and_errors_are_shown() -> None:
    assert [loss_text(one) for one in (0.6, 0.1234, 1.5, None, 1e-7)] == ["0.600", "0.123", "1.50", "–", "1e-07"]
    assert (with_error(0.14912, 0.0129), with_error(0.14912, None)) == ("0.1491 ± 0.013", "0.1491")


def test_times_shares_and_sizes() -> None:
    assert [duration(one) for one in (0.424, 12.34, 244.6, 3845)] == ["0.42 s", "12.3 s", "4:05", "1:04:05"]
    assert (percent(0.5), percent(None), local_time(None)) == ("50 %", "–", "–")
    assert (byte_size(0), byte_size(5 * 2**20), byte_size(3 * 2**30)) == ("–", "5 MB", "3.0 GB")


def test_settings_as_typed() -> None:
    assert [setting_text(one) for one in (True, None, [], {"a": [1, 2]}, ("x", False))] == [
        "true", "–", "–", "a=1, 2", "x, false",
    ]  # fmt: skip
    assert file_name("/a/b/10_leaf/x.png") == "10_leaf/x.png"
