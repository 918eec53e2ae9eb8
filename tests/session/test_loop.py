"""The order of operations: what is written when, and in which order it reaches the disk."""

from typing import Any

import pytest

from lorasmith.engine.device import Device
from lorasmith.engine.world import SingleProcess
from lorasmith.errors import ExitCode
from lorasmith.runs.events import AdapterExported, CheckpointSaved, Event, RunStarted, RunStopped, StepCompleted
from lorasmith.runs.ledger import Ledger
from lorasmith.session import outputs, recorder
from lorasmith.session.checkpoint import save_state
from lorasmith.session.recorder import Recorder
from tests.end_to_end.workshop import Workshop

EVERY_TWO: dict[tuple[str, str], Any] = {("cadence", "save_every"): 2}


def told(events: list[Event]) -> list[str]:
    """The worker's own lines about steps, in order."""
    kinds = {StepCompleted: "step", CheckpointSaved: "saved", AdapterExported: "exported"}
    return [f"{kinds[type(event)]} {event.step}" for event in events if type(event) in kinds]  # type: ignore[attr-defined]


ORDER = ["saved 0", "step 1", "step 2", "saved 2", "exported 2", "step 3", "saved 3", "exported 3"]


@pytest.mark.parametrize("late", [False, True], ids=["direct", "late"])
def test_the_order_of_what_is_told(workshop: Workshop, monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    monkeypatch.setattr(Device, "is_async", late)
    outcome = workshop.new(3, EVERY_TWO)
    assert told(outcome.events) == ORDER
    assert isinstance(outcome.of(RunStopped)[0], RunStopped)
    assert outcome.events[-2] == outcome.of(RunStopped)[0]


def test_no_step_is_done_twice_when_the_last_one_is_due_anyway(workshop: Workshop) -> None:
    assert told(workshop.new(2, EVERY_TWO).events)[-4:] == ["step 2", "saved 2", "exported 2", "exported 2"]


def test_a_stop_that_another_process_was_asked_for_stops_this_one(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Questions to all processes: stop, out of memory, not finite; the fourth is whether to stop before step 2."""
    answers = iter([False, False, False, True])
    monkeypatch.setattr(SingleProcess, "any", lambda self, flag: flag or next(answers))
    outcome = workshop.new(3)
    assert outcome.exit_code == ExitCode.STOPPED
    assert workshop.train_state()["step"] == 1


def test_steps_are_on_the_disk_before_their_state(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut may not leave a state whose steps the ledger does not have."""
    seen: list[str] = []
    append, sync = Ledger.append, Ledger.sync

    def appended(self: Ledger, event: Event) -> None:
        seen.append(type(event).__name__)
        append(self, event)

    def synced(self: Ledger) -> None:
        seen.append("sync")
        sync(self)

    def saving(*arguments: Any, **named: Any) -> Any:
        seen.append("save_state")
        return save_state(*arguments, **named)

    monkeypatch.setattr(Ledger, "append", appended)
    monkeypatch.setattr(Ledger, "sync", synced)
    monkeypatch.setattr(outputs, "save_state", saving)
    workshop.new(2)
    begun = seen[seen.index("RunStarted") :]
    assert begun[:6] == ["RunStarted", "sync", "sync", "save_state", "CheckpointSaved", "sync"]
    assert begun[6:12] == ["StepCompleted", "StepCompleted", "sync", "save_state", "CheckpointSaved", "sync"]


def test_a_request_is_obeyed_at_the_next_boundary(workshop: Workshop) -> None:
    outcome = workshop.new(9, stop_after=3)
    assert outcome.exit_code == ExitCode.STOPPED
    assert told(outcome.events)[-3:] == ["step 3", "saved 3", "exported 3"]
    (stopped,) = outcome.of(RunStopped)
    assert (stopped.step, stopped.reason) == (3, "asked")


def test_a_request_at_the_last_step_is_too_late(workshop: Workshop) -> None:
    outcome = workshop.new(3, stop_after=3)
    assert outcome.exit_code == ExitCode.FINISHED
    assert outcome.of(RunStopped)[0].reason == "reached"


def test_the_old_export_is_kept_when_the_new_one_takes_its_name(workshop: Workshop) -> None:
    workshop.new(1)
    old = workshop.run.export("last").read_bytes()
    workshop.go_on(1)
    (backup,) = workshop.run.backup.glob("last_backup_*.safetensors")
    assert backup.read_bytes() == old
    assert workshop.run.export("last").read_bytes() != old


def test_minutes_count_from_the_newest_state(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    done = Recorder.write_step

    def write_step(self: Recorder, result: Any) -> None:
        clock[0] += 25.0
        done(self, result)

    monkeypatch.setattr(Recorder, "write_step", write_step)
    for module in (outputs, recorder):
        monkeypatch.setattr(module, "monotonic", lambda: clock[0])
    monkeypatch.setattr("lorasmith.session.begin.monotonic", lambda: clock[0])
    outcome = workshop.new(6, {("cadence", "save_minutes"): 1.0, ("cadence", "keep_states"): 9})
    # 25 s a step: 75 s have passed after the third.
    assert [event.step for event in outcome.of(CheckpointSaved)] == [0, 3, 6]
    assert [event.step for event in outcome.of(AdapterExported)] == [6]


def test_the_start_says_where_it_goes(workshop: Workshop) -> None:
    (started,) = workshop.new(2).of(RunStarted)
    assert (started.stop_at, started.resumed_from, started.attempt) == (2, None, 1)
    assert started.batches_per_epoch == 11
    assert len(started.examples) == 7
