"""Memory runs out: the step is done again with less at once, the way it is done then stays, exit 6 only at the end."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lorasmith.data.types import Batch
from lorasmith.diffusion.draw import Numbers
from lorasmith.engine.execution import EagerExecution
from lorasmith.errors import ExitCode
from lorasmith.runs.events import CheckpointSaved, RunStopped, StepCompleted, StepRepeated
from lorasmith.runs.states import find_states
from lorasmith.session import outputs
from tests.end_to_end.workshop import Values, Workshop

BATCH = 4
VALUES: Values = {("training", "batch_size"): BATCH, ("dataset", "resolution"): 64}
STEPS = 4
CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: can't allocate memory: you tried to")
Fails = Callable[[int, int], bool]  # by (size of the slice, forwards so far)


def run_out(monkeypatch: pytest.MonkeyPatch, error: Exception, fails: Fails) -> list[int]:
    """The forward of a slice fails where asked; the sizes of all slices that were tried."""
    really = EagerExecution.forward_backward
    tried: list[int] = []

    def limited(self: EagerExecution, batch: Batch, numbers: Numbers, weight: float) -> Tensor:
        tried.append(len(batch))
        if fails(len(batch), len(tried)):
            raise error
        return really(self, batch, numbers, weight)

    monkeypatch.setattr(EagerExecution, "forward_backward", limited)
    return tried


@pytest.mark.parametrize(
    "error",
    [
        CPU,
        *(
            pytest.param(one, marks=pytest.mark.ci)
            for one in (torch.OutOfMemoryError("CUDA out of memory"), MemoryError())
        ),
    ],
    ids=type,
)
def test_once(workshop: Workshop, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """At the second forward: step 2 is repeated in halves, and everything after it."""
    with monkeypatch.context() as patch:
        tried = run_out(patch, error, lambda size, count: count == 2)
        outcome = workshop.new(STEPS, VALUES)
    assert outcome.exit_code == ExitCode.FINISHED
    assert [(one.step, one.reason, one.micro_split) for one in outcome.of(StepRepeated)] == [(2, "out_of_memory", 2)]
    assert [event.step for event in outcome.of(StepCompleted)] == [1, 2, 3, 4]
    assert workshop.optimizer_steps() == {STEPS}
    assert max(tried[2:]) <= BATCH // 2
    # Saved at once, as what follows depends on it: a state of step 1 that was not due.
    assert [event.step for event in outcome.of(CheckpointSaved)] == [0, 1, STEPS]
    assert workshop.train_state()["counters"]["micro_split"] == 2

    tried = run_out(monkeypatch, error, lambda size, count: False)
    again = workshop.go_on(1)
    assert again.exit_code == ExitCode.FINISHED
    assert max(tried) <= BATCH // 2
    assert workshop.train_state()["counters"]["micro_split"] == 2


@pytest.mark.ci
def test_stopped_and_continued_after_it_ends_with_the_same_bytes(
    make_workshop: Callable[[str], Workshop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is short from step 2 on; the run that is stopped right then goes on as the other does."""
    values = {**VALUES, ("adapter", "dropout"): 0.2}
    straight, stopped = make_workshop("straight"), make_workshop("stopped")
    for workshop, stop_after in ((straight, None), (stopped, 2)):
        with monkeypatch.context() as patch:
            run_out(patch, CPU, lambda size, count: count == 2)
            workshop.new(STEPS, values, stop_after=stop_after)
    stopped.go_on(None)
    assert stopped.digest() == straight.digest()
    whole = make_workshop("whole")
    whole.new(STEPS, values)
    assert whole.digest() != straight.digest()  # other slices, other dropout: so the split must be kept


@pytest.mark.parametrize("days", [-1, *(pytest.param(one, marks=pytest.mark.ci) for one in (1, 0, -4000))])
def test_of_two_states_of_one_step_the_last_counts_whatever_the_clock_says(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    """Memory is short right after a state was saved: the same step is saved once more, with the split."""
    now = [datetime(2026, 3, 1)]

    def set_clock() -> datetime:
        now[0] += timedelta(days=days)
        return now[0]

    monkeypatch.setattr(outputs, "datetime", SimpleNamespace(now=set_clock))
    run_out(monkeypatch, CPU, lambda size, count: count == 3)
    outcome = workshop.new(STEPS, {**VALUES, ("cadence", "save_every"): 1, ("cadence", "keep_states"): 9})
    assert [event.step for event in outcome.of(CheckpointSaved)] == [0, 1, 2, 2, 3, 4]
    first, second = [one.path for one in find_states(workshop.run.root)[0] if one.step == 2]
    splits = [json.loads((one / "train_state.json").read_bytes())["counters"]["micro_split"] for one in (first, second)]
    assert splits == [2, 1]


def test_a_picture_at_a_time(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    run_out(monkeypatch, CPU, lambda size, count: size > 1)
    outcome = workshop.new(2, VALUES)
    assert outcome.exit_code == ExitCode.FINISHED
    assert [one.micro_split for one in outcome.of(StepRepeated)] == [2, 4]
    assert not workshop.train_state()["counters"]["gradient_checkpointing"]


def test_then_activations_are_computed_twice(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three failures in a row at single pictures, the fourth attempt fits."""
    with monkeypatch.context() as patch:
        failures = iter([True] * 3)
        run_out(patch, CPU, lambda size, count: next(failures, False))
        outcome = workshop.new(2, VALUES)
    assert outcome.exit_code == ExitCode.FINISHED
    found = [(one.micro_split, one.gradient_checkpointing) for one in outcome.of(StepRepeated)]
    assert found == [(2, None), (4, None), (None, True)]
    assert workshop.train_state()["counters"]["gradient_checkpointing"]
    checkpointed: list[str] = []
    watch_checkpointing(monkeypatch, checkpointed)
    workshop.go_on(1)
    assert checkpointed == ["block"]


def watch_checkpointing(monkeypatch: pytest.MonkeyPatch, seen: list[str]) -> None:
    from lorasmith.families.sd15.family import StableDiffusion15

    really = StableDiffusion15.set_checkpointing

    def watched(self: StableDiffusion15, models: Any, level: Any) -> None:
        seen.append(level)
        really(self, models, level)

    monkeypatch.setattr(StableDiffusion15, "set_checkpointing", watched)


def test_always(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """From step 3 on nothing fits: what was done is saved, exit 6, and --continue goes on when there is room again."""
    with monkeypatch.context() as patch:
        run_out(patch, CPU, lambda size, count: count > 2)
        outcome = workshop.new(STEPS, VALUES)
    assert outcome.exit_code == ExitCode.NO_RESOURCE
    (stopped,) = outcome.of(RunStopped)
    assert (stopped.code, stopped.step, stopped.fields) == ("out_of_memory", 2, {"step": 3})
    assert workshop.train_state()["step"] == 2
    assert workshop.go_on(None).exit_code == ExitCode.FINISHED
    assert workshop.train_state()["step"] == STEPS


def test_nothing_left_to_try_from_the_start(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """No repeat that would have saved: the steps before are kept all the same."""
    values = {("training", "gradient_checkpointing"): True}
    with monkeypatch.context() as patch:
        run_out(patch, CPU, lambda size, count: count > 2)
        outcome = workshop.new(STEPS, values)
    assert outcome.exit_code == ExitCode.NO_RESOURCE
    assert outcome.of(StepRepeated) == []
    assert workshop.train_state()["step"] == 2
    assert workshop.run.export("last").exists()


def test_another_error_is_not_taken_for_it(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    run_out(monkeypatch, RuntimeError("mat1 and mat2 shapes cannot be multiplied"), lambda size, count: count >= 2)
    outcome = workshop.new(STEPS, VALUES)
    assert outcome.exit_code == ExitCode.CRASHED
    stopped = outcome.of(RunStopped)[0]
    assert stopped.code == "crashed"
    assert "mat1 and mat2" in stopped.traceback
