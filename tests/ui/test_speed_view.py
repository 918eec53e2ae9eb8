"""The table of batch sizes: a row for each, N/A where nothing is known."""

from dataclasses import replace

import pytest

from lorasmith.planning.estimate import Unmeasured
from lorasmith.planning.speed import NO_MEMORY, Trial
from lorasmith.ui.speed_view import show
from lorasmith.ui.translator import Translator
from tests.planning.test_plan import MEASURED

FAST = replace(MEASURED, step_seconds=0.25, step_flop=1e12, matrix_flops=8e12, peak_memory=3 * 2**30)


@pytest.mark.parametrize("language", ["en", "zh-TW"])
def test_rows_and_notes(capsys: pytest.CaptureFixture[str], language: str) -> None:
    words = Translator(language)
    show(words, [Trial(1, FAST), Trial(2, replace(FAST, step_flop=0.0)), Trial(4, NO_MEMORY)])
    printed = capsys.readouterr().out
    first, second, third = (line for line in printed.splitlines() if line.startswith("│"))
    assert [cell.strip() for cell in first.strip("│").split("│")] == [
        "1", "4", "0.25 s", "3.0 GiB", "4 TFLOP/s", "50%",
    ]  # fmt: skip
    missing = words.say("plan.missing")
    assert [cell.strip() for cell in second.strip("│").split("│")][-2:] == [missing, missing]
    assert words.say("plan.speed.no_memory") in third
    assert "8 TFLOP/s" in printed
    assert words.say("plan.speed.unchanged") in printed


def test_a_trial_that_failed_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    show(Translator("en"), [Trial(1, Unmeasured("worker_died", {"status": -9}))])
    printed = capsys.readouterr().out
    assert all(line in printed for line in Translator("en").error("worker_died", {"status": -9}))
