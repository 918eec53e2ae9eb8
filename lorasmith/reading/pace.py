"""The speed of a run: pictures and floating-point operations in a second, and the share of what the device can."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lorasmith.runs.events import DeviceChosen, Event, StepCompleted


@dataclass(frozen=True, slots=True)
class Pace:
    """The speed of a step."""

    pictures_per_second: float
    flops: float | None  # floating-point operations in a second; None where the ledger has none


def pace_of(step: StepCompleted) -> Pace | None:
    """The pace of a step; None where its duration is not known."""
    if step.seconds <= 0:
        return None
    return Pace(len(step.example_ids) / step.seconds, step.flop / step.seconds or None)


def share_of_peak(flops: float | None, events: Iterable[Event]) -> float | None:
    """The share of the peak that the maker of the newest start's device states; None where one of both is not known."""
    peak = 0.0
    for event in events:
        if isinstance(event, DeviceChosen):
            peak = event.peak_flops
    return flops / peak if flops and peak else None
