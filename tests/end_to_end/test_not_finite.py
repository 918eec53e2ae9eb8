"""A loss or gradient that is not finite: nothing of the step is applied, what stood before is saved, exit 8."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import safetensors.torch
import torch

from lorasmith.engine import step as step_module
from lorasmith.engine.device import Device
from lorasmith.engine.state import TrainState
from lorasmith.engine.step import StepContext
from lorasmith.errors import ExitCode
from lorasmith.families.sd15.family import StableDiffusion15
from lorasmith.runs.events import RunStarted, RunStopped, StepCompleted, Warned
from lorasmith.runs.ledger import read_events
from lorasmith.runtime.supervisor import Supervisor
from tests.end_to_end.workshop import InProcess, Outcome, Values, Workshop

MakeWorkshop = Callable[[str], Workshop]
STEPS, BAD = 5, 3
SHAPED: Values = {
    ("training", "batch_size"): 2,
    ("lr_schedule", "shape"): "cosine",
    ("lr_schedule", "warmup_steps"): 2,
    ("lr_schedule", "horizon_steps"): STEPS,
    ("optimizer", "lr"): 1e-3,
}
# Of the step that is not finite, where it is, and whether that is read a step late.
FURTHER = ((1, "loss", True), (BAD, "gradient", False), (BAD, "loss", False), (BAD, "loss", True),
           (STEPS, "gradient", False), (STEPS, "gradient", True))  # fmt: skip


def poison(monkeypatch: pytest.MonkeyPatch, bad: int, *, where: str) -> None:
    """Step `bad` comes out not finite, each time it is done."""
    really = step_module._forward_backward

    def poisoned(state: TrainState, context: StepContext, *, step: int, **which: Any) -> Any:
        found = really(state, context, step=step, **which)
        if step == bad and where == "gradient":
            state.adapter.gradient()[3] = float("inf")
        if step == bad and where == "loss":
            found = replace(found, losses=found.losses * float("nan"))
        return found

    monkeypatch.setattr(step_module, "_forward_backward", poisoned)


def read_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU as if reading a number from it made the program wait."""
    monkeypatch.setattr(Device, "is_async", True)


def check_end(workshop: Workshop, outcome: Outcome, bad: int) -> None:
    assert outcome.exit_code == ExitCode.NON_FINITE
    assert [event.step for event in outcome.of(StepCompleted)] == list(range(1, bad))
    assert workshop.train_state()["step"] == bad - 1
    assert workshop.states() == [bad - 1, *([0] if bad > 1 else [])]
    exported = safetensors.torch.load_file(workshop.run.export("last"))
    assert all(torch.isfinite(one).all() for one in [*exported.values(), *workshop.adapter().values()])
    (stopped,) = outcome.of(RunStopped)
    assert (stopped.code, stopped.reason, stopped.step) == ("non_finite", "failed", bad - 1)


@pytest.mark.parametrize(
    ("bad", "where", "late"),
    [
        (1, "loss", False),
        (BAD, "gradient", True),
        *(pytest.param(*row, marks=pytest.mark.ci) for row in FURTHER),
    ],
)
def test_ends_as_if_stopped_before(
    make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch, bad: int, where: str, late: bool
) -> None:
    """State and export are those of a run that was stopped after step k - 1, to the byte."""
    broken, stopped = make_workshop("broken"), make_workshop("stopped")
    if bad > 1:
        stopped.new(STEPS, SHAPED, stop_after=bad - 1)
    if late:
        read_late(monkeypatch)
    poison(monkeypatch, bad, where=where)
    check_end(broken, broken.new(STEPS, SHAPED), bad)
    if bad > 1:
        assert broken.digest() == stopped.digest()


@pytest.mark.ci
def test_names_what_the_step_was_made_of(make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures that a run without the fault trained on in that step, and the timesteps the denoiser saw."""
    values = {**SHAPED, ("training", "accumulation_steps"): 2}
    good, broken = make_workshop("good"), make_workshop("broken")
    seen = good.new(BAD, values)
    names = [one["path"].rsplit("/", 1)[1] for one in seen.of(RunStarted)[0].examples]
    timesteps: list[list[int]] = []
    predict = StableDiffusion15.predict

    def watched(self: StableDiffusion15, models: Any, latents: Any, steps: torch.Tensor, conditioning: Any) -> Any:
        timesteps.append(steps.tolist())
        return predict(self, models, latents, steps, conditioning)

    monkeypatch.setattr(StableDiffusion15, "predict", watched)
    poison(monkeypatch, BAD, where="gradient")
    (stopped,) = broken.new(STEPS, values).of(RunStopped)
    assert stopped.fields == {
        "step": BAD,
        "pictures": [names[one] for one in seen.of(StepCompleted)[BAD - 1].example_ids],
        "timesteps": timesteps[2 * BAD - 2] + timesteps[2 * BAD - 1],
    }
    json.dumps(stopped.fields)


def test_continue_with_another_lr_reaches_the_target(workshop: Workshop) -> None:
    with pytest.MonkeyPatch.context() as patch:
        poison(patch, BAD, where="gradient")
        workshop.new(STEPS, SHAPED)
        assert workshop.go_on(None).exit_code == ExitCode.NON_FINITE  # never of itself: it comes back
    outcome = workshop.go_on(None, {("optimizer", "lr"): 1e-4})
    assert outcome.exit_code == ExitCode.FINISHED
    (started,) = outcome.of(RunStarted)
    assert (started.resumed_from, started.stop_at) == (BAD - 1, STEPS)
    assert started.changed == {"lr": [1e-3, 1e-4]}
    assert [event.step for event in outcome.of(StepCompleted)] == list(range(BAD, STEPS + 1))
    assert workshop.train_state()["step"] == STEPS
    assert workshop.optimizer_steps() == {STEPS}


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("lion", marks=pytest.mark.ci)])
def test_reading_late_changes_nothing(
    make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    values = {**SHAPED, ("optimizer", "name"): optimizer, ("cadence", "save_every"): 2}
    direct, late = make_workshop("direct"), make_workshop("late")
    direct.new(STEPS, values)
    read_late(monkeypatch)
    outcome = late.new(STEPS, values)
    assert [event.step for event in outcome.of(StepCompleted)] == list(range(1, STEPS + 1))
    assert late.losses() == direct.losses()
    assert late.digest() == direct.digest()
    assert late.states() == direct.states()


def test_reading_late_loses_no_step_where_the_next_one_fails(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An optimizer that cannot be told on the device is told here, while the step before is still unread."""
    read_late(monkeypatch)
    poison(monkeypatch, BAD, where="gradient")
    check_end(workshop, workshop.new(STEPS, {**SHAPED, ("optimizer", "name"): "lion"}), BAD)


def test_reading_late_stops_where_it_was_asked_to(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    read_late(monkeypatch)
    outcome = workshop.new(STEPS, SHAPED, stop_after=2)
    assert outcome.exit_code == ExitCode.STOPPED
    completed = [event.step for event in outcome.of(StepCompleted)]
    assert completed == list(range(1, workshop.train_state()["step"] + 1))


def test_weights_that_overflow_are_not_saved(workshop: Workshop) -> None:
    """A step size beyond float32: the state before it stays the newest, and no file holds what came of it."""
    outcome = workshop.new(3, {("optimizer", "lr"): 1e39})
    assert outcome.exit_code == ExitCode.NON_FINITE
    (stopped,) = outcome.of(RunStopped)
    assert (stopped.code, stopped.fields["saved"]) == ("non_finite_weights", 0)
    assert workshop.states() == [0]
    assert not workshop.run.export("last").exists()
    assert not [path for path in workshop.run.root.iterdir() if path.name.endswith(".tmp")]


def test_the_ledger_holds_finite_numbers_only(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, BAD, where="loss")
    workshop.new(STEPS, SHAPED)
    text = workshop.run.ledger.read_text(encoding="utf-8")
    assert "NaN" not in text
    assert "Infinity" not in text
    assert read_events(workshop.run.ledger)


def test_a_run_that_diverged_keeps_its_reason(workshop: Workshop) -> None:
    """Weights too large for the export's fp16 are finite in the state: the step that failed is told, not the file."""
    outcome = workshop.new(5, {("optimizer", "lr"): 1e5})
    assert outcome.exit_code == ExitCode.NON_FINITE
    (stopped,) = outcome.of(RunStopped)
    assert stopped.code == "non_finite_weights"
    assert workshop.train_state()["step"] == stopped.fields["step"] - 1


@pytest.mark.parametrize(
    ("lr", "extra"),
    [
        (1e10, {("cadence", "save_every"): 1, ("cadence", "keep_states"): 1}),
        pytest.param(1e10, {}, marks=pytest.mark.ci),
        pytest.param(
            1e10, {("optimizer", "name"): "lion", ("training", "accumulation_steps"): 2}, marks=pytest.mark.ci
        ),
        pytest.param(1e20, {("cadence", "save_every"): 1}, marks=pytest.mark.ci),
    ],
)
def test_a_rate_far_too_large_can_be_gone_back_from(make_workshop: MakeWorkshop, lr: float, extra: Values) -> None:
    """The state after the blow-up is kept and not gone on from: from there each try would end the same way."""
    broken, fresh = make_workshop("broken"), make_workshop("fresh")
    outcome = broken.new(STEPS, {("optimizer", "lr"): lr, **extra})
    assert outcome.exit_code == ExitCode.NON_FINITE
    (stopped,) = outcome.of(RunStopped)
    assert (stopped.code, stopped.fields["saved"]) == ("non_finite_weights", 0)
    assert not broken.run.export("last").exists()
    supervisor = Supervisor(broken.start_new(STEPS), launch=InProcess)
    named = supervisor.newest_state()
    assert named is not None and named.name == stopped.fields["state"]
    again = broken.go_on(None, {("optimizer", "lr"): 1e-4})
    assert again.exit_code == ExitCode.FINISHED
    (started,) = again.of(RunStarted)
    assert (started.resumed_from, started.stop_at) == (0, STEPS)
    fresh.new(STEPS, {("optimizer", "lr"): 1e-4, **extra})
    assert broken.digest() == fresh.digest()


@pytest.mark.ci
def test_after_good_steps_the_last_state_before_the_trouble_is_gone_on_from(workshop: Workshop) -> None:
    every_step: Values = {("optimizer", "lr"): 1e-4, ("cadence", "save_every"): 1}
    workshop.new(3, every_step)
    outcome = workshop.go_on(3, {("optimizer", "lr"): 1e10})
    assert outcome.exit_code == ExitCode.NON_FINITE
    (stopped,) = outcome.of(RunStopped)
    assert (stopped.code, stopped.step, stopped.fields["saved"]) == ("non_finite_weights", 4, 3)
    assert workshop.go_on(None).exit_code == ExitCode.NON_FINITE  # the same rate ends the same way
    again = workshop.go_on(None, {("optimizer", "lr"): 1e-4})
    assert (again.exit_code, again.of(RunStarted)[0].resumed_from) == (ExitCode.FINISHED, 3)
    assert workshop.train_state()["step"] == 6


def test_numbers_too_large_for_the_file_s_precision_are_no_crash(workshop: Workshop) -> None:
    """Finite in float32, infinite in the file: the state is whole, and another precision writes it."""
    outcome = workshop.new(1, {("optimizer", "lr"): 1e6, ("cadence", "save_every"): 1})
    assert outcome.exit_code == ExitCode.NON_FINITE
    assert outcome.of(RunStopped)[0].code == "export_too_large"
    assert outcome.of(Warned)[-1].code == "export_too_large"
    assert workshop.states() == [1, 0]
    assert workshop.go_on(None, {("export", "save_precision"): "fp32"}).exit_code == ExitCode.FINISHED
    exported = safetensors.torch.load_file(workshop.run.export("last"))
    assert all(torch.isfinite(one).all() for one in exported.values())
