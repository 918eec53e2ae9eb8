"""P1: a run asked for N steps completes exactly N updates, and every place that counts says N."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from lorasmith.errors import ExitCode
from lorasmith.reports.projections import projections_of
from lorasmith.runs.events import RunStarted, StepCompleted
from lorasmith.runs.ledger import read_events, steps, surviving
from lorasmith.runtime.supervisor import Supervisor
from tests.end_to_end.workshop import InProcess, Workshop

BATCH_SIZES = (1, 2, 3)
ACCUMULATION = (1, 3)
STEPS = 18
# What is done, and the step the run must then stand on.
HISTORY = (("new", 5, 5), ("continue", 4, 9), ("stop", 8, 12), ("continue", None, 17), ("continue", 1, STEPS))


def of_both_suites() -> list[Any]:
    """The largest numbers by default."""
    pairs = [(batch_size, accumulation) for batch_size in BATCH_SIZES for accumulation in ACCUMULATION]
    return [pytest.param(*one, marks=[] if one == (3, 3) else [pytest.mark.ci]) for one in pairs]


@pytest.mark.parametrize(("batch_size", "accumulation"), of_both_suites())
def test_every_counter_says_n(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, batch_size: int, accumulation: int
) -> None:
    """Seven pictures, two of the folders' repeats, two buckets; the projections follow as they do for a person."""
    _project_along(monkeypatch)
    values = {("training", "batch_size"): batch_size, ("training", "accumulation_steps"): accumulation}
    for action, count, total in HISTORY:
        if action == "new":
            outcome = workshop.new(5, values)
        else:
            outcome = workshop.go_on(count, stop_after=total if action == "stop" else None)
        assert outcome.exit_code == (ExitCode.STOPPED if action == "stop" else ExitCode.FINISHED)
        assert _counted(workshop) == dict.fromkeys(_counted(workshop), total)
    assert _seen(workshop) == _planned(batch_size, accumulation)


def test_the_new_target_counts_from_the_highest_step_saved(workshop: Workshop) -> None:
    workshop.new(3)
    workshop.go_on(2)
    started = [event for event in read_events(workshop.run.ledger) if isinstance(event, RunStarted)]
    assert [(event.resumed_from, event.stop_at) for event in started] == [(None, 3), (3, 5)]


def _project_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard and the CSV take every event as the terminal's loop hands it to them."""
    events = Supervisor.events

    def projected(self: Supervisor) -> Any:
        projections = projections_of(self._run)
        for event in events(self):
            if event is not None:
                assert projections.project(event) == []
            yield event
        assert projections.close() == []

    monkeypatch.setattr(Supervisor, "events", projected)
    assert InProcess is not None


def _counted(workshop: Workshop) -> dict[str, Any]:
    run = workshop.run
    state = workshop.train_state()
    return {
        "ledger": _only([event.step for event in steps(workshop.events())]),
        "tensorboard current": _only(workshop.plotted("loss/current")),
        "tensorboard average": _only(workshop.plotted("loss/average")),
        "tensorboard lr": _only(workshop.plotted("lr")),
        "csv": _only([int(row["step"]) for row in workshop.rows()]),
        "state": state["step"],
        "state's counters": state["counters"]["step"],
        "manifest": json.loads((workshop.state_folder() / "manifest.json").read_bytes())["step"],
        "metadata": int(_metadata(run.export("last"))["ss_steps"]),
        "optimizer": _only(list(workshop.optimizer_steps()), every=False),
    }


def _only(found: list[int], *, every: bool = True) -> int:
    """The last of 1, 2, 3 … with none missing, none twice and none above."""
    assert found == (list(range(1, len(found) + 1)) if every else found[:1])
    return found[-1]


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        found: dict[str, str] = file.metadata()
    return found


def _seen(workshop: Workshop) -> dict[int, int]:
    """How often each example was trained on."""
    counted: dict[int, int] = {}
    for event in surviving(read_events(workshop.run.ledger)):
        if isinstance(event, StepCompleted):
            for one in event.example_ids:
                counted[one] = counted.get(one, 0) + 1
    return counted


def _planned(batch_size: int, accumulation: int) -> dict[int, int]:
    """By the plan of the epochs alone: the micro-batches of all steps from the first one on."""
    from lorasmith.data.order import Order
    from lorasmith.data.types import Size

    # By path: 1_test holds three wide pictures once each, 2_test four square ones twice each.
    examples = [(Size(88, 40), 1)] * 3 + [(Size(64, 64), 2)] * 4
    order = Order(examples, batch_size=batch_size, seed=42)
    counted: dict[int, int] = {}
    for position in range(STEPS * accumulation):
        for one in order.batch_at(position, 1)[1]:
            counted[one] = counted.get(one, 0) + 1
    return counted
