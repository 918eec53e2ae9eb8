"""A run takes its place: what a start that begins anew finds. What is left of older states is in test_build."""

from typing import Any

import pytest

from lorasmith.errors import ExitCode
from lorasmith.runs.events import DeviceChosen, RunStarted
from lorasmith.runs.ledger import read_events
from lorasmith.runs.states import find_states
from lorasmith.runtime import progress
from lorasmith.session import begin
from tests.end_to_end.workshop import Workshop

EVERY: dict[tuple[str, str], Any] = {("cadence", "save_every"): 2, ("cadence", "keep_states"): 9}


def test_the_ledger_begins_with_what_was_found_while_loading(workshop: Workshop) -> None:
    workshop.new(1)
    kept = [type(event) for event in read_events(workshop.run.ledger)]
    assert DeviceChosen in kept[: kept.index(RunStarted)]
    assert not workshop.run.staging.exists()


@pytest.mark.ci
def test_what_a_start_changed_that_died_before_it_said_so_is_said_by_the_next(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its settings are in run.toml already."""
    workshop.new(1)

    def die(*_: object) -> None:
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr(begin, "PatientLedger", die)
        changes: dict[tuple[str, str], Any] = {("optimizer", "lr"): 2e-4, ("noise", "max_timestep"): 900}
        assert workshop.go_on(1, changes).exit_code == ExitCode.CRASHED
    (started,) = workshop.go_on(1).of(RunStarted)
    assert started.changed == {"lr": [1e-4, 2e-4], "max-timestep": [None, 900]}


@pytest.mark.ci
def test_a_damaged_state_below_one_that_is_not_trusted_is_set_aside_too(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.new(4, EVERY)
    for module in (begin, progress):
        monkeypatch.setattr(module, "newest_trusted", lambda _events: 3)
    damaged = next(state.path for state in find_states(workshop.run.root)[0] if state.step == 2)
    (damaged / "optimizer.pt").write_bytes(b"x")
    outcome = workshop.go_on(1)
    assert [event.resumed_from for event in outcome.of(RunStarted)] == [0]
    assert damaged.name in [event.fields.get("state") for event in outcome.warned if event.code == "state_set_aside"]


def test_a_prediction_of_auto_asks_for_nothing(workshop: Workshop) -> None:
    workshop.new(1)
    assert workshop.go_on(1, {("model", "prediction"): "auto"}).exit_code == ExitCode.FINISHED
