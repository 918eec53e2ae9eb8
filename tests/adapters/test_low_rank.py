"""The autograd functions for CPUs: their gradients are those of the formula, and none is computed for nothing."""

from functools import partial

import pytest
import torch

from lorasmith.adapters.low_rank import add_low_rank, add_product


@pytest.mark.parametrize("shape", [(2, 3, 4), (4,), (2, 4, 3, 2)])
def test_gradients_are_those_of_the_formula(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(3)
    out = (2, 5, 3, 2) if len(shape) == 4 else (*shape[:-1], 5)
    tensors = [
        torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True)
        for size in (out, shape, (3, 4), (5, 3))
    ]
    assert torch.autograd.gradcheck(lambda y, x, down, up: add_low_rank(y, x, down, up, 0.7), tensors)


@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 3, 2)])
def test_only_wanted_gradients_are_computed(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(3)
    x, down, up = (torch.randn(size, generator=generator) for size in (shape, (3, 4), (4, 3)))
    y = add_low_rank(torch.zeros(shape), x, down.requires_grad_(), up, 1.0)
    assert [function is None for function, _ in y.grad_fn.next_functions] == [True, True, False, True]
    y.sum().backward()
    alone = down.grad
    down.grad = None
    add_low_rank(torch.zeros(shape), x.requires_grad_(), down, up.requires_grad_(), 1.0).sum().backward()
    assert alone is not None and torch.equal(down.grad, alone)
    assert x.grad is not None and up.grad is not None


def test_the_product_alone() -> None:
    generator = torch.Generator().manual_seed(3)
    y, low_rank, up = (
        torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True)
        for size in ((2, 5, 3, 2), (2, 3, 3, 2), (5, 3))
    )
    expected = y + 0.7 * torch.einsum("or,brhw->bohw", up, low_rank)
    torch.testing.assert_close(add_product(y, low_rank, up, 0.7), expected)
    assert torch.autograd.gradcheck(partial(add_product, scale=0.7), [y, low_rank, up])
    function = add_product(y.detach(), low_rank.detach(), up, 0.7).grad_fn
    assert [wanted is None for wanted, _ in function.next_functions] == [True, True, False]
