"""One step on a family of one layer: the mathematics against a few lines of plain torch."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lorasmith.adapters.base import by_layer
from lorasmith.diffusion.draw import Draw
from lorasmith.engine import step as step_module
from lorasmith.engine.average import WeightAverage
from lorasmith.engine.device import Device
from lorasmith.engine.execution import EagerExecution
from lorasmith.engine.state import LossScaler, TrainState
from lorasmith.engine.step import Repeat, StepContext, StepResult, non_finite, numbers_at, train_step
from lorasmith.errors import NonFiniteError, ResourceError
from tests.engine.one_layer import BATCH, LR, SEED, made
from tests.engine.recorded_operations import Operations


def plain_gradient(state: TrainState, context: StepContext, step: int) -> tuple[Tensor, float]:
    """The gradient of the mean loss over all examples of the step, by autograd over the whole."""
    losses = []
    for micro in range(context.accumulation_steps):
        batch = context.batches.at(step, micro)[1]
        losses.append(context.losses(batch, numbers_at(context, step, micro, batch)))
    mean = torch.cat(losses).mean()
    found = torch.autograd.grad(mean, state.adapter.parameters("denoiser"))
    return torch.cat([one.flatten() for one in found]), float(mean.detach())


@pytest.mark.parametrize("accumulation", [1, 2, 3])
@pytest.mark.parametrize("split", [1, 2, 3, 4, 64])
def test_the_gradient_is_that_of_the_mean(accumulation: int, split: int) -> None:
    state, context = made(accumulation=accumulation)
    state.micro_split = split
    expected, loss = plain_gradient(state, context, 1)
    result = train_step(state, context)
    assert isinstance(result, StepResult)
    torch.testing.assert_close(state.adapter.gradient(), expected)
    assert result.numbers().loss == pytest.approx(loss)
    assert result.numbers().grad_norm == pytest.approx(float(expected.norm()))
    assert result.example_ids == tuple(range(accumulation * BATCH))
    assert (result.step, result.epoch, state.step) == (1, 1, 1)
    assert result.lr == {"denoiser": LR * 0.5}


@pytest.mark.parametrize("split", [1, 2])
def test_every_example_of_a_step_weighs_the_same(split: int) -> None:
    """The last micro-batch of a bucket may be smaller: the loss that is reported is the one that was minimised."""
    state, context = made(sizes=(4, 1, 3))
    state.micro_split = split
    expected, loss = plain_gradient(state, context, 1)
    result = train_step(state, context)
    assert isinstance(result, StepResult)
    torch.testing.assert_close(state.adapter.gradient(), expected)
    assert result.numbers().loss == pytest.approx(loss)


def test_the_update_is_the_optimizers() -> None:
    state, context = made()
    parameter = nn.Parameter(state.adapter.flat.clone())
    parameter.grad = plain_gradient(state, context, 1)[0]
    torch.optim.AdamW([parameter], lr=LR * 0.5).step()
    train_step(state, context)
    torch.testing.assert_close(state.adapter.flat, parameter.detach())


@pytest.mark.parametrize(("bound", "is_clipped"), [(1e-3, True), (1e6, False), (0.0, False)])
def test_clipping(bound: float, is_clipped: bool) -> None:
    state, context = made(max_grad_norm=bound)
    expected, _ = plain_gradient(state, context, 1)
    result = train_step(state, context)
    assert isinstance(result, StepResult)
    assert result.numbers().grad_norm == pytest.approx(float(expected.norm()))  # before
    applied = state.adapter.gradient()
    if is_clipped:
        assert float(applied.norm()) == pytest.approx(bound, rel=1e-3)
    else:
        torch.testing.assert_close(applied, expected)


def test_a_loss_scale_cancels_to_the_bit() -> None:
    """Powers of two: the same update as without."""
    plain, context = made()
    scaled, scaled_parts = made(scaler=LossScaler(scale=2.0**12))
    train_step(plain, context)
    train_step(scaled, scaled_parts)
    assert torch.equal(plain.adapter.flat, scaled.adapter.flat)
    assert scaled.scaler is not None
    assert scaled.scaler.good_steps == 1


def poison(monkeypatch: pytest.MonkeyPatch, value: float, *, in_loss: bool = False) -> None:
    really = step_module._forward_backward

    def poisoned(state: TrainState, context: StepContext, **which: Any) -> Any:
        found = really(state, context, **which)
        state.adapter.gradient()[0] = value
        return replace(found, losses=found.losses * value) if in_loss else found

    monkeypatch.setattr(step_module, "_forward_backward", poisoned)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nothing_of_a_bad_step_is_applied(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    state, context = made()
    train_step(state, context)
    before = state.adapter.flat.clone()
    poison(monkeypatch, value)
    with pytest.raises(NonFiniteError) as caught:
        train_step(state, context)
    assert caught.value.fields["step"] == 2
    assert state.step == 1
    assert torch.equal(state.adapter.flat, before)


def test_an_overflow_halves_the_scale_until_it_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    state, context = made(scaler=LossScaler(scale=4.0))
    poison(monkeypatch, float("inf"))
    scales = []
    for _ in range(2):
        outcome = train_step(state, context)
        assert isinstance(outcome, Repeat)
        scales.append((outcome.step, outcome.reason, outcome.scale))
    assert scales == [(1, "overflow", 2.0), (1, "overflow", 1.0)]
    with pytest.raises(NonFiniteError):
        train_step(state, context)
    assert state.step == 0


def test_a_bad_loss_is_no_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    state, context = made(scaler=LossScaler())
    poison(monkeypatch, float("nan"), in_loss=True)
    with pytest.raises(NonFiniteError):
        train_step(state, context)


def test_what_a_step_was_made_of() -> None:
    _, context = made(accumulation=2)
    fields = non_finite(context, 3).fields
    timesteps = []
    for micro in range(2):
        timesteps += (10 * Draw(SEED, 3, micro).uniform("timestep", (BATCH,))).long().tolist()
    assert fields == {"step": 3, "pictures": [f"{number}.png" for number in range(8)], "timesteps": timesteps}


def test_the_flag_on_the_device_is_sticky(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a bad step that nobody has read yet, nothing is applied any more."""
    monkeypatch.setattr(Device, "is_async", True)
    state, context = made()
    first = train_step(state, context)
    before = state.adapter.flat.clone()
    with monkeypatch.context() as patch:
        poison(patch, float("nan"))
        second = train_step(state, context)
    third = train_step(state, context)
    assert [one.numbers().found_inf for one in (first, second, third)] == [0, 1, 1]  # type: ignore[union-attr]
    assert torch.equal(state.adapter.flat, before)
    assert {int(one["step"]) for one in state.optimizer.state_dict()["state"].values()} == {1}


def test_a_step_on_a_gpu_reads_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host learns what a step measured when it asks for it, a step later."""
    monkeypatch.setattr(Device, "is_async", True)
    state, context = made(sizes=(4, 2), max_grad_norm=0.1, max_change_norm=0.3)
    state.average = WeightAverage(0.5, state.adapter.flat.clone())
    with Operations() as operations:  # refuses to read a number
        first, second = (train_step(state, context) for _ in range(2))
    assert len(operations.made) > 100
    assert [one.numbers().found_inf for one in (first, second)] == [0, 0]  # type: ignore[union-attr]
    assert first.numbers().loss != second.numbers().loss  # type: ignore[union-attr]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop", "prodigy"])
def test_what_cannot_skip_on_the_device_is_read_before_the_update(
    monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    """Torch's other optimizers have the word `fused` among their defaults too, and would apply the bad step."""
    monkeypatch.setattr(Device, "is_async", True)
    state, context = made(optimizer=optimizer)
    before = state.adapter.flat.clone()
    poison(monkeypatch, float("nan"))
    with pytest.raises(NonFiniteError):
        train_step(state, context)
    assert torch.equal(state.adapter.flat, before)


def test_an_average_takes_in_no_skipped_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "is_async", True)
    state, context = made()
    state.average = WeightAverage(0.5, state.adapter.flat.clone())
    train_step(state, context)
    before = state.average.weights.clone()
    poison(monkeypatch, float("nan"))
    train_step(state, context)
    assert torch.equal(state.average.weights, before)


def test_memory_runs_out_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Halves, quarters, activations twice, then no more; each time the same step."""
    state, context = made()

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(EagerExecution, "forward_backward", full)
    found = []
    for _ in range(3):
        outcome = train_step(state, context)
        assert isinstance(outcome, Repeat)
        found.append((outcome.step, outcome.micro_split, outcome.gradient_checkpointing))
    assert found == [(1, 2, None), (1, 4, None), (1, None, True)]
    with pytest.raises(ResourceError, match="out_of_memory"):
        train_step(state, context)
    assert state.step == 0
    assert not state.adapter.gradient().any()


def test_changes_are_limited_after_the_update() -> None:
    def norm(state: TrainState) -> float:
        (tensors,) = by_layer(state.adapter.tensors(), state.adapter.kind).values()
        (layer,) = state.adapter.layers.values()
        return float(state.adapter.kind.norm(tensors, layer.settings))

    state, context = made(max_change_norm=0.2)
    assert norm(state) > 0.2
    train_step(state, context)
    assert norm(state) == pytest.approx(0.2)
