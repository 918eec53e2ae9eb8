"""Steps that are replayed end with the bytes of eager steps, whatever shapes come in whatever order."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lorasmith.data.types import Batch
from lorasmith.engine.average import WeightAverage
from lorasmith.engine.capture import CallAgain, Work
from lorasmith.engine.captured import CapturedExecution
from lorasmith.engine.state import LossScaler, TrainState
from lorasmith.engine.step import StepContext, StepNumbers, StepResult, numbers_at, slices, train_step
from tests.engine.one_layer import Batches, made
from tests.engine.recorded_operations import RecordedOperations

STEPS = 6


class Buckets(Batches):
    """Micro-batches of two shapes in turn, as buckets give them."""

    def at(self, step: int, micro: int) -> tuple[int, Batch]:
        epoch, batch = super().at(step, micro)
        if step % 2:
            return epoch, batch
        wide = {name: torch.cat([value, value], dim=2) for name, value in batch.inputs.items() if name == "latents"}
        return epoch, Batch({**batch.inputs, **wide}, batch.example_ids)


def trained(sizes: tuple[int, ...], **given: Any) -> tuple[TrainState, StepContext, list[StepNumbers]]:
    state, context = made(sizes=sizes, **given)
    context = replace(context, batches=Buckets(sizes), rates_at=lambda step: [0.1 / step])
    numbers = []
    while state.step < STEPS:
        result = train_step(state, context)
        assert isinstance(result, StepResult)
        numbers.append(result.numbers())
    return state, context, numbers


def assert_same(one: TrainState, other: TrainState) -> None:
    assert torch.equal(one.adapter.flat, other.adapter.flat)
    theirs = iter(other.optimizer.state_dict()["state"].values())
    for entries in one.optimizer.state_dict()["state"].values():
        assert all(map(torch.equal, entries.values(), next(theirs).values()))
    assert one.optimizer.state_dict()["param_groups"] == other.optimizer.state_dict()["param_groups"]


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped and limited": {"max_grad_norm": 0.01, "max_change_norm": 0.3},
    "fp16": {"scaler": 4.0},
    "an optimizer that stays outside": {"optimizer": "sgd"},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sizes", [(4,), (3, 4, 1)])
def test_replayed_steps_have_the_bytes_of_eager_steps(sizes: tuple[int, ...], case: str) -> None:
    def given() -> dict[str, Any]:
        found = dict(CASES[case])
        return found | ({"scaler": LossScaler(found["scaler"])} if "scaler" in found else {})

    eager, _, expected = trained(sizes, **given())
    capture = RecordedOperations()
    state, context, numbers = trained(sizes, **given(), capture=capture)
    assert numbers == expected
    assert_same(state, eager)
    updates = 0 if context.update_on_device is None else 1
    assert (updates == 1) == (case in ("plain", "clipped and limited"))
    assert capture.recordings == 2 * len(sizes) + updates
    assert capture.replays == STEPS * (len(sizes) + updates)


def test_what_a_replay_reads_and_writes_never_moves() -> None:
    state, context, _ = trained((4,), capture=RecordedOperations())
    execution = context.execution
    assert isinstance(execution, CapturedExecution)

    def places() -> list[int]:
        recordings = execution._recordings.values()
        static = [[*one.batch.inputs.values(), one.numbers.noise, one.weight, one.losses] for one in recordings]
        inputs = [tensor for tensors in static for tensor in tensors]
        moments = [value for entries in state.optimizer.state.values() for value in entries.values()]
        views = [view.grad for view in state.adapter.parameters("denoiser")]
        tensors: list[Any] = [*inputs, *moments, *views, state.adapter.flat, state.adapter.gradient()]
        return [tensor.data_ptr() for tensor in tensors]

    before = places()
    for _ in range(4):
        train_step(state, context)
    assert places() == before


def test_making_ready_changes_nothing() -> None:
    """Weights, gradients, what the optimizer keeps, and the generators: the first step is that of a run that was not
    made ready."""
    state, context = made(capture=RecordedOperations(), max_change_norm=0.3)
    weights = state.adapter.flat.clone()
    state.adapter.gradient().fill_(2.0)
    drawn = torch.get_rng_state()
    for batch, numbers in slices(*_first(context), 1):
        context.execution.prepare(batch, numbers)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert torch.equal(state.adapter.gradient(), torch.full_like(weights, 2.0))
    assert torch.equal(state.adapter.flat, weights)
    assert not any(value.any() for entries in state.optimizer.state.values() for value in entries.values())


class Twice:
    """Replays the work twice, as a recording that is wrong would."""

    def record(self, work: Work) -> Work:
        return lambda: (work(), work())[0]


def test_a_replay_with_other_bits_is_found_before_the_first_step() -> None:
    state, context = made(capture=RecordedOperations())
    context = replace(context, execution=CapturedExecution(context.losses, state, context.device, Twice()))
    with pytest.raises(RuntimeError, match="other bits"):
        context.execution.prepare(*_first(context))
    assert not state.adapter.gradient().any()


def _first(context: StepContext) -> tuple[Batch, Any]:
    batch = context.batches.at(1, 0)[1]
    return batch, numbers_at(context, 1, 0, batch)


def test_a_step_that_is_not_finite_changes_nothing_ever_after() -> None:
    state, context, _ = trained((4,), capture=RecordedOperations())
    before, counts = state.adapter.flat.clone(), [int(one["step"]) for one in state.optimizer.state.values()]
    batches = context.batches

    class Poisoned(Batches):
        def at(self, step: int, micro: int) -> tuple[int, Batch]:
            epoch, batch = batches.at(step, micro)
            return epoch, batch.mapped(lambda value: value * float("nan")) if step == STEPS + 1 else batch

    context = replace(context, batches=Poisoned((4,)))
    outcomes = [train_step(state, context) for _ in range(2)]
    assert [one.numbers().found_inf for one in outcomes] == [1, 1]  # type: ignore[union-attr]
    assert torch.equal(state.adapter.flat, before)
    assert [int(one["step"]) for one in state.optimizer.state.values()] == counts


def test_an_average_goes_along() -> None:
    def averaged(**given: Any) -> Tensor:
        state, context = made(**given)
        state.average = WeightAverage(0.5, state.adapter.flat.clone())
        for _ in range(STEPS):
            train_step(state, context)
        return state.average.weights

    torch.testing.assert_close(averaged(capture=RecordedOperations()), averaged())


def test_after_memory_ran_out_other_shapes_are_recorded() -> None:
    capture = RecordedOperations()
    state, context, _ = trained((4,), capture=capture)
    other, eager, _ = trained((4,))
    for one, its_context in ((state, context), (other, eager)):
        its_context.execution.forget()
        one.micro_split = 2
        train_step(one, its_context)
    assert_same(state, other)
    assert len(context.execution) == 1


def test_where_there_is_no_gpu_the_work_is_called_again() -> None:
    eager, _, expected = trained((4, 2))
    state, _, numbers = trained((4, 2), capture=CallAgain())
    assert numbers == expected
    assert_same(state, eager)
