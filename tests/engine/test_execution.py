"""The losses of a batch, and what an execution leaves of them."""

import torch

from lorasmith.engine.execution import EagerExecution
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


def test_losses_draw_nothing() -> None:
    """What is captured and replayed must not move a generator."""
    _, context = made()
    batch = context.batches.at(1, 0)[1]
    numbers = numbers_at(context, 1, 0, batch)
    before = torch.get_rng_state()
    context.losses(batch, numbers)
    assert torch.equal(torch.get_rng_state(), before)


def test_gradients_are_weighted_and_added_up() -> None:
    state, context = made()
    batch = context.batches.at(1, 0)[1]
    numbers = numbers_at(context, 1, 0, batch)
    execution = EagerExecution(context.losses, context.device)
    losses = execution.forward_backward(batch, numbers, 0.5)
    once = state.adapter.gradient().clone()
    execution.forward_backward(batch, numbers, 1.0)
    torch.testing.assert_close(state.adapter.gradient(), 3 * once)
    assert not losses.requires_grad and torch.equal(losses, context.losses(batch, numbers))
