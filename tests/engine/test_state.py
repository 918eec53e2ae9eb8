"""What a state remembers besides its tensors comes back as it was."""

import json
from copy import deepcopy

import pytest
import torch
from torch import nn

from lorasmith.engine.average import WeightAverage
from lorasmith.engine.optimizers import build_optimizer, update
from lorasmith.engine.state import GROWTH_STEPS, INITIAL_SCALE, LossScaler, Origin, TrainState
from tests.adapters.making import attached_to_all


def made(scaler: LossScaler | None = None) -> TrainState:
    adapter = attached_to_all(nn.Sequential(nn.Linear(8, 16)))
    return TrainState(
        0, adapter, build_optimizer("adamw", adapter, base_lrs={"denoiser": 1.0}, options={}), scaler, Origin(0, 1)
    )


def moved(scaler: LossScaler | None) -> TrainState:
    state = made(scaler)
    state.adapter.gradient().fill_(1.0)
    state.optimizer.step()
    state.step, state.origin, state.micro_split, state.gradient_checkpointing = 7, Origin(3, 2), 4, True
    return state


def restored(state: TrainState, into: TrainState) -> TrainState:
    counters = json.loads(json.dumps(state.counters()))  # as in a file
    into.restore(counters, state.adapter.tensors(), state.optimizer.state_dict())
    return into


def test_the_way_back() -> None:
    state = moved(LossScaler(scale=2.0**10, good_steps=5))
    other = restored(state, made(LossScaler()))
    assert other.counters() == state.counters()
    assert (other.step, other.origin, other.micro_split, other.gradient_checkpointing) == (7, Origin(3, 2), 4, True)
    assert other.scaler == LossScaler(scale=2.0**10, good_steps=5)
    assert torch.equal(other.adapter.flat, state.adapter.flat)
    (one,), (two,) = other.optimizer.state.values(), state.optimizer.state.values()
    assert torch.equal(one["exp_avg"], two["exp_avg"])


def test_what_is_restored_is_what_is_trained() -> None:
    """The optimizer still holds the adapter's own numbers, not copies."""
    other = restored(moved(None), made())
    before = other.adapter.flat.clone()
    other.adapter.gradient().fill_(1.0)
    other.optimizer.step()
    assert not torch.equal(other.adapter.flat, before)


def test_another_precision_needs_another_scaler() -> None:
    """--continue with --precision fp32 drops the scaler, with fp16 a new one begins."""
    assert restored(moved(LossScaler(scale=8.0)), made()).scaler is None
    assert restored(moved(None), made(LossScaler())).scaler == LossScaler()


# -- weights to be used ----------------------------------------------------------------------------


def test_an_average_begins_with_the_weights_and_comes_back() -> None:
    """With --ema-decay added at --continue nothing was saved; later it was."""
    state, other = moved(None), made()
    other.average = WeightAverage(0.9, torch.zeros_like(other.adapter.flat))
    restored(state, other)
    assert torch.equal(other.average.weights, state.adapter.flat)
    kept = torch.rand(other.adapter.flat.shape, generator=torch.Generator().manual_seed(1))
    other.restore(state.counters(), state.adapter.tensors(), state.optimizer.state_dict(), state.adapter.tensors(kept))
    assert torch.equal(other.average.weights, kept)
    assert torch.equal(other.adapter.flat, state.adapter.flat)


def test_the_average_is_there_for_a_while_only() -> None:
    state = moved(None)
    before = state.adapter.flat.clone()
    state.average = WeightAverage(0.9, torch.ones_like(before))
    with pytest.raises(ZeroDivisionError), state.evaluation_weights():
        assert torch.equal(state.adapter.flat, torch.ones_like(before))
        1 / 0  # noqa: B018
    assert torch.equal(state.adapter.flat, before)


@pytest.mark.parametrize(
    "name", ["adamwschedulefree", "sgdschedulefree", "radamschedulefree", "prodigyplusschedulefree"]
)
def test_the_weights_of_schedule_free_optimizers(name: str) -> None:
    """As their own `eval()` gives them; its way back loses bits, and this does not."""
    adapter = attached_to_all(nn.Sequential(nn.Linear(8, 16)))
    state = TrainState(
        0, adapter, build_optimizer(name, adapter, base_lrs={"denoiser": 1e-2}, options={}), None, Origin(0, 1)
    )
    with state.evaluation_weights():  # before the first step there are no others
        pass
    for step in range(1, 9):  # the first five of RAdam move nothing
        adapter.gradient().copy_(torch.randn(adapter.flat.shape, generator=torch.Generator().manual_seed(step)))
        update(state.optimizer, [1e-2], seed=step)
    before, optimizer = adapter.flat.clone(), deepcopy(state.optimizer.state_dict())
    with state.evaluation_weights():
        used = adapter.flat.clone()
    assert not torch.equal(used, before)
    assert torch.equal(adapter.flat, before)
    now = state.optimizer.state_dict()
    assert now["param_groups"] == optimizer["param_groups"]
    for key, entries in optimizer["state"].items():
        assert all(
            torch.equal(torch.as_tensor(now["state"][key][name]), torch.as_tensor(entries[name])) for name in entries
        )
    state.optimizer.eval()  # type: ignore[attr-defined]
    assert torch.equal(adapter.flat, used)


# -- the scale of fp16 -----------------------------------------------------------------------------


def test_doubles_after_enough_good_steps_in_a_row() -> None:
    scaler = LossScaler()
    for _ in range(GROWTH_STEPS - 1):
        scaler.step_applied()
    assert scaler.scale == INITIAL_SCALE
    scaler.step_applied()
    assert (scaler.scale, scaler.good_steps) == (2 * INITIAL_SCALE, 0)


def test_an_overflow_halves_and_begins_to_count_anew() -> None:
    scaler = LossScaler(scale=4.0, good_steps=7)
    scaler.overflowed()
    assert (scaler.scale, scaler.good_steps) == (2.0, 0)
    assert scaler.can_shrink()
    scaler.overflowed()
    assert not scaler.can_shrink()
