"""The pace of steps: only what the ledger and the device's maker tell."""

from dataclasses import replace

import pytest

from lorasmith.reading.pace import Pace, pace_of, share_of_peak
from lorasmith.runs.events import DeviceChosen, StepCompleted

STEP = StepCompleted(
    attempt=1, time=0.0, step=1, epoch=1, loss=1.0, lr={"denoiser": 1e-4}, grad_norm=1.0, example_ids=[0, 1, 1, 3],
    seconds=0.5, peak_memory=0, flop=8e12,
)  # fmt: skip
CHOSEN = DeviceChosen(
    attempt=1, time=0.0, device="cuda", name="NVIDIA H200", reason="asked", precision="bf16", precision_reason="asked",
    threads=1, peak_flops=989e12,
)  # fmt: skip


def test_pictures_count_as_often_as_they_are_used() -> None:
    assert pace_of(STEP) == Pace(8.0, 16e12)


@pytest.mark.parametrize(
    ("step", "pace"), [(replace(STEP, flop=0.0), Pace(8.0, None)), (replace(STEP, seconds=0.0), None)]
)
def test_what_is_not_known_is_not_made_up(step: StepCompleted, pace: Pace | None) -> None:
    assert pace_of(step) == pace


def test_the_share_is_that_of_the_newest_device() -> None:
    other = replace(CHOSEN, peak_flops=200e12)
    assert share_of_peak(100e12, [CHOSEN, STEP, other]) == 0.5
    assert share_of_peak(100e12, [CHOSEN, replace(CHOSEN, peak_flops=0.0)]) is None
    assert share_of_peak(None, [CHOSEN]) is None
