"""When the numbers of a step are read and written, and which seconds are its own."""

from typing import Any

import pytest

from lorasmith.engine import step
from lorasmith.engine.device import Device
from lorasmith.runs.events import CheckpointSaved, StepCompleted
from lorasmith.session import checkpoint, loop, outputs, recorder
from lorasmith.session.recorder import Recorder
from tests.end_to_end.workshop import Workshop

EVERY_TWO: dict[tuple[str, str], Any] = {("cadence", "save_every"): 2}


def test_a_late_reader_runs_one_step_ahead(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step k is written down after step k + 1 was computed, and before anything is saved."""
    seen: list[str] = []
    done = Recorder.write_step

    def train_step(state: Any, context: Any, **how: Any) -> Any:
        outcome = step.train_step(state, context, **how)
        seen.append(f"computed {outcome.step}")
        return outcome

    def write_step(self: Recorder, result: Any) -> None:
        seen.append(f"read {result.step}")
        done(self, result)

    def saved(state: Any, *given: Any, **named: Any) -> Any:
        seen.append(f"saved {state.step}")
        return checkpoint.save_state(state, *given, **named)

    monkeypatch.setattr(loop, "train_step", train_step)
    monkeypatch.setattr(Recorder, "write_step", write_step)
    monkeypatch.setattr(outputs, "save_state", saved)
    monkeypatch.setattr(Device, "is_async", True)
    workshop.new(4, {("cadence", "save_every"): 3})
    assert seen == [
        "saved 0", "computed 1", "computed 2", "read 1", "computed 3", "read 2", "read 3", "saved 3",
        "computed 4", "read 4", "saved 4",
    ]  # fmt: skip


def test_seconds_are_those_of_the_step(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading, saving and exporting have their own time."""
    clock = [0.0]

    def train_step(state: Any, context: Any, **how: Any) -> Any:
        clock[0] += 2.0
        return step.train_step(state, context, **how)

    def saving(*arguments: Any, **named: Any) -> Any:
        clock[0] += 1000.0
        return checkpoint.save_state(*arguments, **named)

    monkeypatch.setattr(loop, "train_step", train_step)
    monkeypatch.setattr(outputs, "save_state", saving)
    for module in (outputs, recorder):
        monkeypatch.setattr(module, "monotonic", lambda: clock[0])
    outcome = workshop.new(4, EVERY_TWO)
    assert [event.seconds for event in outcome.of(StepCompleted)] == [2.0] * 4
    assert [event.seconds for event in outcome.of(CheckpointSaved)] == [1000.0] * 3
