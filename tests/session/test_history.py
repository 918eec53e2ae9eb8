"""Whether a step that is gone on from is still to be looked at.

(tests/faults/test_killed_while_looking.py has the deaths.)
"""

from dataclasses import replace
from typing import Any

import pytest

from lorasmith.runs.events import Evaluated, Event, RunStarted, RunStopped, StepCompleted
from lorasmith.runs.ledger import Ledger
from lorasmith.session.history import restore_results
from lorasmith.session.loaded import LoadedRun, run_started
from tests.end_to_end.workshop import Workshop, load, stage


@pytest.fixture
def loaded(workshop: Workshop) -> LoadedRun:
    """Goes on from step 4 of a run that is looked at every second step."""
    workshop.run.root.mkdir()
    stage(workshop.start_new(8, {("evaluation", "every"): 2, ("evaluation", "examples"): 1}))
    return replace(load(workshop.run, stop_at=8), attempt=2, resumed_from=4)


def looked_at(step: int, seconds: float = 0.0) -> Evaluated:
    return Evaluated(attempt=1, time=0.0, step=step, is_control=False, seconds=seconds)


def stepped(*steps: int, seconds: float = 1.0) -> list[Event]:
    plain: dict[str, Any] = {"epoch": 1, "loss": 0.1, "lr": {}, "grad_norm": 0.1, "example_ids": [0], "peak_memory": 0}
    return [StepCompleted(attempt=1, time=0.0, step=step, seconds=seconds, **plain) for step in steps]


def owes(loaded: LoadedRun, *events: Event) -> bool:
    first = replace(run_started(loaded), attempt=1, resumed_from=None)
    with Ledger(loaded.run.ledger) as ledger:
        for event in (first, *events, run_started(loaded)):
            ledger.append(event)
    return restore_results(loaded).evaluation_is_missing


def test_a_step_that_was_due_and_was_not_looked_at(loaded: LoadedRun) -> None:
    assert owes(loaded, looked_at(2), *stepped(1, 2, 3, 4))


def test_one_that_was(loaded: LoadedRun) -> None:
    assert not owes(loaded, *stepped(1, 2, 3, 4), looked_at(4))


def test_one_that_was_not_due(loaded: LoadedRun) -> None:
    assert not owes(replace(loaded, resumed_from=3), *stepped(1, 2, 3))
    assert not owes(replace(loaded, resumed_from=None))


def test_the_last_step_is_looked_at_when_all_of_it_is_on_the_disk(loaded: LoadedRun) -> None:
    assert not owes(replace(loaded, stop_at=4), *stepped(1, 2, 3, 4))


def test_one_that_would_take_more_than_its_share(loaded: LoadedRun) -> None:
    assert not owes(loaded, *stepped(1, 2), looked_at(2, seconds=5.0), *stepped(3, 4))
    assert owes(replace(loaded), *stepped(1, 2), looked_at(2, seconds=0.2), *stepped(3, 4))


def test_what_another_start_has_tried_is_not_tried_again(loaded: LoadedRun) -> None:
    """What fails there each time must not keep the run from going on."""
    tried = replace(run_started(loaded), attempt=2)
    died = RunStopped(attempt=2, time=0.0, step=4, reason="failed", code="unexpected", exit_code=70)
    assert isinstance(tried, RunStarted)
    assert not owes(replace(loaded, attempt=3), *stepped(1, 2, 3, 4), tried, died)
