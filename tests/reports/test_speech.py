from __future__ import annotations

import pytest

from lorasmith.reports.speech import clock, file_name, measured, moment, plain, share, short, size


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


def test_losses_line_up() -> None:
    assert [measured(one) for one in (0.6, 0.1234, 1.5, None, 1e-7)] == ["0.600", "0.123", "1.50", "–", "1e-07"]


def test_times_shares_and_sizes() -> None:
    assert [clock(one) for one in (0.424, 12.34, 245, 3845)] == ["0.42 s", "12.3 s", "4:05", "1:04:05"]
    assert (share(0.5), share(None), moment(None)) == ("50 %", "–", "–")
    assert (size(0), size(5 * 2**20), size(3 * 2**30)) == ("–", "5 MB", "3.0 GB")


def test_settings_as_typed() -> None:
    assert [plain(one) for one in (True, None, [], {"a": [1, 2]}, ("x", False))] == [
        "true", "–", "–", "a=1, 2", "x, false",
    ]  # fmt: skip
    assert file_name("/a/b/10_leaf/x.png") == "10_leaf/x.png"
