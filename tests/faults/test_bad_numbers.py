"""Numbers that are none, and memory that runs out, in the real worker under the real supervisor: it ends with its own
exit code, is never started again, everything good is kept, and there is a way on.

(tests/end_to_end/test_not_finite.py and test_out_of_memory.py have each place and each device within one process.)
"""

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from lorasmith.errors import ExitCode
from lorasmith.runs.events import RunStarted, RunStopped, StepCompleted, StepRepeated, WorkerRestarted, WorkerStarted
from lorasmith.runs.states import damage_of, find_states
from lorasmith.runtime import supervisor as supervisor_module
from lorasmith.runtime.supervisor import Supervisor
from lorasmith.ui.cli import main
from tests.end_to_end.workshop import Outcome, Workshop
from tests.faults.forked_worker import ForkedWorker
from tests.faults.harms import BAD_STEP, harm

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
STEPS = 5
EVERY: dict[tuple[str, str], Any] = {("cadence", "save_every"): 1, ("cadence", "keep_states"): 9}
BATCH: dict[tuple[str, str], Any] = {("training", "batch_size"): 4, ("dataset", "resolution"): 64}


def started(workshop: Workshop, name: str, values: dict[tuple[str, str], Any]) -> Outcome:
    supervisor = Supervisor(workshop.start_new(STEPS, values), launch=partial(ForkedWorker, harm=harm(name)))
    events = [event for event in supervisor.events() if event is not None]
    return Outcome(supervisor.exit_code, events)


def is_finite(folder: Path) -> bool:
    adapter = safetensors.torch.load_file(folder / "adapter.safetensors")
    moments = torch.load(folder / "optimizer.pt", weights_only=True)["state"].values()
    numbers = [*adapter.values(), *(one for row in moments for one in row.values())]
    return all(bool(torch.isfinite(one).all()) for one in numbers)


@pytest.mark.ci
def test_a_weight_that_is_no_number(workshop: Workshop) -> None:
    outcome = started(workshop, "weight", EVERY)
    assert outcome.exit_code == ExitCode.NON_FINITE
    assert len(outcome.of(WorkerStarted)) == 1 and outcome.of(WorkerRestarted) == []
    assert [event.step for event in outcome.of(StepCompleted)] == list(range(1, BAD_STEP))
    (stopped,) = outcome.of(RunStopped)
    assert stopped.exit_code == ExitCode.NON_FINITE
    states, unreadable = find_states(workshop.run.root)
    assert [state.step for state in states] == [2, 1, 0] and unreadable == []
    assert all(damage_of(state) is None and is_finite(state.path) for state in states)
    for export in workshop.run.root.glob("*.safetensors"):
        assert all(bool(torch.isfinite(one).all()) for one in safetensors.torch.load_file(export).values())
    again = workshop.go_on(None, {("optimizer", "lr"): 1e-5})
    assert again.exit_code == ExitCode.FINISHED
    # Of the newest weights no loss was computed, so the state before them is gone on from (ADR 19).
    assert [event.step for event in again.of(StepCompleted)] == list(range(BAD_STEP - 1, STEPS + 1))
    assert again.of(RunStarted)[0].changed == {"lr": [1e-4, 1e-5]}
    assert workshop.optimizer_steps() == {STEPS}


@pytest.mark.ci
def test_a_nan_in_a_weight_names_what_it_was_met_with(workshop: Workshop) -> None:
    (stopped,) = started(workshop, "weight", EVERY).of(RunStopped)
    assert stopped.code == "non_finite_weights"
    assert (stopped.fields["step"], stopped.fields["saved"]) == (BAD_STEP, BAD_STEP - 2)
    assert len(stopped.fields["pictures"]) == len(stopped.fields["timesteps"]) == 1


@pytest.mark.ci
def test_memory_that_is_short_at_every_size(workshop: Workshop) -> None:
    outcome = started(workshop, "memory", BATCH)
    assert outcome.exit_code == ExitCode.NO_RESOURCE
    assert len(outcome.of(WorkerStarted)) == 1 and outcome.of(WorkerRestarted) == []
    tried = [(one.micro_split, one.gradient_checkpointing) for one in outcome.of(StepRepeated)]
    assert tried == [(2, None), (4, None), (None, True)]
    assert workshop.train_state()["step"] == 1
    assert workshop.go_on(None).exit_code == ExitCode.FINISHED
    assert workshop.train_state()["step"] == STEPS


@pytest.mark.ci
@pytest.mark.parametrize(
    ("name", "code", "sentences"),
    [
        ("gradient", 8, ("The loss or gradient of step 3 is infinite", "picture_", "`--continue`", "`--lr`")),
        ("memory", 6, ("Out of memory at step 2", "`--continue`", "`--base-precision int8`", "`--new --memory 8GiB`")),
    ],
)
def test_what_a_person_reads(
    workshop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    code: int,
    sentences: tuple[str, ...],
) -> None:
    """By the program's own command, to its exit status; then the way on that it names."""
    monkeypatch.chdir(workshop.folder)
    harmed = partial(Supervisor, launch=partial(ForkedWorker, harm=harm(name)))
    whole = partial(Supervisor, launch=ForkedWorker)
    command = ["train", "--lang", "en", "--save-every", "0"]
    begun = ["--new", "--steps", str(STEPS), "--base-model", str(workshop.base_model), "--evaluate-every", "0"]
    monkeypatch.setattr(supervisor_module, "Supervisor", harmed)
    assert main([*command, *begun, "--batch-size", "4", "--resolution", "64"]) == code
    said = capsys.readouterr()
    assert [one for one in sentences if one not in said.err] == []
    assert "Traceback" not in said.out + said.err
    assert "The newest state" in said.out or "state_" in said.out
    (report,) = workshop.run.training_logs.glob("*.json")
    assert json.loads(report.read_bytes())
    monkeypatch.setattr(supervisor_module, "Supervisor", whole)
    assert main([*command, "--continue", "--lr", "1e-5"]) == ExitCode.FINISHED
    assert f"Reached the maximum of {STEPS} steps" in capsys.readouterr().out
    assert workshop.train_state()["step"] == STEPS
