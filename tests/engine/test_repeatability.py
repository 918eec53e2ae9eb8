"""The self-check passes here, and fails on products that depend on where their operands lie."""

import pytest
import torch
from torch import Tensor

from lorasmith.engine.repeatability import PRODUCTS, differing_products, self_check

CPU = torch.device("cpu")


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_products_of_a_step_repeat_here(precision: torch.dtype) -> None:
    assert self_check(CPU, precision) == ()


@pytest.mark.parametrize("boundary", [128, 4096])
def test_products_that_depend_on_addresses_are_found(boundary: int) -> None:
    def varying(x: Tensor, w: Tensor, low: Tensor) -> tuple[Tensor, ...]:
        at_boundary = x.data_ptr() % boundary == 0
        return (x @ w if at_boundary else torch.cat([x[:, :100] @ w[:100] + x[:, 100:] @ w[100:]]),)

    assert differing_products(CPU, torch.float32, {**PRODUCTS, "varying": varying}) == ("varying",)


def test_products_that_vary_from_call_to_call_are_found() -> None:
    calls: list[None] = []

    def varying(x: Tensor, w: Tensor, low: Tensor) -> tuple[Tensor, ...]:
        calls.append(None)
        return (x + 1e-6 if len(calls) == 3 else x,)

    assert differing_products(CPU, torch.float32, {"varying": varying}) == ("varying",)


def test_where_addresses_are_not_known_nothing_is_claimed() -> None:
    assert self_check(torch.device("mps"), torch.float32) is None
