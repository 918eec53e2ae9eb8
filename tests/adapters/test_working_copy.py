"""The working copy is the buffer as it is when a pass begins, and nothing outside of a pass reads it."""

import torch
from torch import nn

from lorasmith.adapters.working_copy import WorkingCopy
from tests.adapters.making import attached_to_all


def test_a_pass_reads_the_numbers_of_its_beginning_and_adds_to_the_gradient() -> None:
    flat, gradient = torch.randn(32), torch.ones(32)
    copy = WorkingCopy(flat, gradient, torch.bfloat16)
    part = flat[16:].view(4, 4)
    for number in (1.0, 2.0):  # the second pass after an update
        flat.fill_(number / 3)
        with copy.opened():
            assert torch.equal(copy.view_of(part), part.to(torch.bfloat16))
            copy.gradient_of(part).add_(number)
    assert gradient.tolist() == [1.0] * 16 + [4.0] * 16


def test_nothing_is_copied_where_the_precision_is_that_of_the_buffer() -> None:
    flat, gradient = torch.randn(32), torch.zeros(32)
    copy = WorkingCopy(flat, gradient, torch.float32)
    assert copy.numbers is flat and copy.gradient is gradient


def test_a_pass_that_fails_adds_nothing() -> None:
    gradient = torch.zeros(8)
    copy = WorkingCopy(torch.zeros(8), gradient, torch.bfloat16)
    try:
        with copy.opened():
            copy.gradient.fill_(1)
            raise MemoryError
    except MemoryError:
        pass
    assert not copy.is_open and not gradient.any()


def test_evaluations_see_numbers_that_changed_since_the_pass() -> None:
    model = nn.Sequential(nn.Linear(6, 4)).to(torch.bfloat16).requires_grad_(False)
    adapter = attached_to_all(model, rank=2)
    x = torch.randn(3, 6).to(torch.bfloat16)
    with adapter.opened():
        before = model(x)
    adapter.flat.normal_(generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        after = model(x)
    assert not torch.equal(after, before)
