"""Attention with a kept softmax is as exact as torch's own, in output and gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from lorasmith.engine import cpu_attention
from lorasmith.engine.cpu_attention import attention, speed_up_attention


def made(tokens: int, keys: int) -> list[Tensor]:
    """Query, key and value as layers give them, scores of a size at which a softmax chooses."""
    generator = torch.Generator().manual_seed(3)
    shapes = ((tokens, 2.0), (keys, 2.0), (keys, 1.0))
    return [
        (torch.randn(2, count, 3, 24, generator=generator) * size).bfloat16().transpose(1, 2) for count, size in shapes
    ]


def results(attend: Any, inputs: list[Tensor]) -> list[Tensor]:
    own = [x.detach().clone().requires_grad_() for x in inputs]
    y = attend(*own)
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(4)).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, own, gradient)]


@pytest.mark.parametrize(("tokens", "keys"), [(64, 64), (96, 77), (1, 5)])
def test_it_is_as_exact_as_torchs_own(tokens: int, keys: int) -> None:
    inputs = made(tokens, keys)
    exact = results(scaled_dot_product_attention, [x.double() for x in inputs])
    ours, torchs = results(attention, inputs), results(scaled_dot_product_attention, inputs)
    for found, plain, true in zip(ours, torchs, exact, strict=True):
        assert found.dtype == plain.dtype and found.shape == plain.shape
        error, allowed = ((x.double() - true).norm().item() for x in (found, plain))
        assert error <= 1.5 * allowed + 1e-3 * true.norm().item()


def test_heads_are_joined_without_a_copy() -> None:
    query, key, value = (x.requires_grad_() for x in made(8, 8))
    assert type(attention(query, key, value).grad_fn).__name__ == "_AttentionBackward"
    assert attention(query, key, value).transpose(1, 2).is_contiguous()


def test_others_go_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = made(8, 8)
    for x in (inputs, [x.float() for x in inputs]):
        with monkeypatch.context() as patch:
            if x is inputs:
                patch.setattr(cpu_attention, "MAX_SHARES", 2 * 3 * 8 * 8 - 1)
            assert torch.equal(attention(*x), scaled_dot_product_attention(*x))


def test_it_is_given_to_processors_that_take_it() -> None:
    class Processor:
        attend: Any = None

    class Layer(nn.Module):
        def __init__(self, processor: Any) -> None:
            super().__init__()
            self.processor = processor

    taking, other = Layer(Processor()), Layer(object())
    assert speed_up_attention(nn.ModuleList([taking, other, nn.Linear(2, 2)])) == 1
    assert taking.processor.attend is attention
