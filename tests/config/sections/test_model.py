"""Section `model`."""

import pytest

from lorasmith.config import ModelConfig


@pytest.mark.parametrize(("stored", "meant"), [(True, "on"), (False, "off"), ("auto", "auto"), ("on", "on")])
def test_first_runs_recorded_the_end_of_the_schedule_as_a_truth_value(stored: object, meant: str) -> None:
    assert ModelConfig.model_validate({"zero_terminal_snr": stored}).zero_terminal_snr == meant
