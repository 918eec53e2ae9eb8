"""A number that is not finite is found wherever it lies, in every type that is saved or read."""

from __future__ import annotations

import pytest
import torch

from lorasmith.finite import is_finite


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 511, 1000])
def test_one_number_among_many(dtype: torch.dtype, number: float, place: int) -> None:
    numbers = torch.linspace(-3, 3, 1001, dtype=torch.float64).to(dtype)
    assert is_finite(numbers)
    numbers[place] = number
    assert not is_finite(numbers)
    assert not is_finite(numbers.view(7, 143).T)


def test_the_largest_numbers_and_none_at_all() -> None:
    assert is_finite(torch.full((3, 5), torch.finfo(torch.float32).max))
    assert is_finite(torch.empty(0, 4))
    assert is_finite(torch.tensor([7, -3]))
