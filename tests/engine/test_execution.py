"""The losses of a batch, and what an execution leaves of them."""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from lorasmith.data.types import LOSS_MASK, LOSS_WEIGHT, Batch
from lorasmith.diffusion.draw import Numbers
from lorasmith.diffusion.losses import (
    absolute_error,
    constant_threshold,
    exponential_threshold,
    pseudo_huber,
    smooth_l1,
    snr_threshold,
)
from lorasmith.diffusion.objective import Objective, squared_error
from lorasmith.diffusion.process import DdpmProcess
from lorasmith.diffusion.weightings import (
    debiased_estimation,
    like_noise_prediction,
    like_v_prediction,
    min_snr,
)
from lorasmith.engine.execution import EagerExecution, losses_of
from lorasmith.engine.step import numbers_at
from tests.engine.one_layer import BATCH, made


def test_losses_are_per_example_and_pure() -> None:
    _, context = made()
    batch = context.batches.at(1, 0)[1]
    numbers = numbers_at(context, 1, 0, batch)
    losses = context.losses(batch, numbers)
    assert (losses.shape, losses.dtype) == ((BATCH,), torch.float32)
    torch.randn(5)
    assert torch.equal(losses, context.losses(batch, numbers))
    row = context.losses(batch.rows(2, 3), numbers.rows(2, 3))
    torch.testing.assert_close(row[0], losses[2])


OBJECTIVES = {
    "squares": Objective(squared_error, (min_snr(5.0, "v_prediction"), debiased_estimation("v_prediction"))),
    "huber": Objective(pseudo_huber(snr_threshold(0.1)), (like_noise_prediction,)),
    "smooth": Objective(smooth_l1(exponential_threshold(0.1, 2.0)), (like_v_prediction(0.5),)),
    "constant": Objective(smooth_l1(constant_threshold(0.1, 2.0))),
    "absolute": Objective(absolute_error),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_draw_nothing_and_read_nothing_back(name: str) -> None:
    """What is to be captured and replayed must neither move a generator nor wait for a value on the device."""
    _, context = made()
    batch = context.batches.at(1, 0)[1]
    numbers = numbers_at(context, 1, 0, batch)
    alphas = torch.linspace(0.99, 0.01, 1000)
    process = DdpmProcess(alphas, "v_prediction")
    before = torch.get_rng_state()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:  # fails where a tensor's value is needed
        inputs = {name: mode.from_tensor(value) for name, value in batch.inputs.items()}
        inputs[LOSS_MASK] = mode.from_tensor(torch.ones(BATCH, *batch.latents.shape[-2:]))
        inputs[LOSS_WEIGHT] = mode.from_tensor(torch.ones(BATCH))
        noise, quantiles = (mode.from_tensor(one) for one in (numbers.noise, numbers.quantiles))
        losses = losses_of(
            context.family,
            context.models,
            Batch(inputs, batch.example_ids),
            Numbers(noise, quantiles, perturbation=noise),
            process=process,
            objective=OBJECTIVES[name],
        )
        with pytest.raises(DataDependentOutputException):
            float(losses[0])
    assert losses.shape == (BATCH,)
    assert torch.equal(torch.get_rng_state(), before)


def test_gradients_are_weighted_and_added_up() -> None:
    state, context = made()
    batch = context.batches.at(1, 0)[1]
    numbers = numbers_at(context, 1, 0, batch)
    execution = EagerExecution(context.losses, context.device, state.adapter)
    losses = execution.forward_backward(batch, numbers, 0.5)
    once = state.adapter.gradient().clone()
    execution.forward_backward(batch, numbers, 1.0)
    torch.testing.assert_close(state.adapter.gradient(), 3 * once)
    assert not losses.requires_grad and torch.equal(losses, context.losses(batch, numbers))


def test_masks_and_factors_are_inputs_of_a_batch() -> None:
    _, context = made()
    batch = context.batches.at(1, 0)[1]
    numbers = numbers_at(context, 1, 0, batch)
    plain = context.losses(batch, numbers)
    height, width = batch.latents.shape[-2:]
    factors, masks = torch.arange(BATCH).float(), torch.zeros(BATCH, height, width)
    weighted = Batch({**batch.inputs, LOSS_WEIGHT: factors}, batch.example_ids)
    assert torch.equal(context.losses(weighted, numbers), factors * plain)
    masks[1] = 1
    masked = Batch({**batch.inputs, LOSS_MASK: masks}, batch.example_ids)
    assert torch.equal(context.losses(masked, numbers), torch.where(torch.arange(BATCH) == 1, plain, 0))
