"""Which operators a block's second computation leaves out, and that the gradients are those of a single one."""

from collections import Counter
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from lorasmith.families import kept_results

WIDTH, SIDE, HEADS = 64, 4, 2
ATTENTION, CONVOLUTION = "_scaled_dot_product_flash_attention_for_cpu", "convolution"


class Block(nn.Module):
    """A convolution, an attention, and a layer whose result is narrow and then changed in place, as a pair does it."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.wide = nn.Linear(WIDTH, 16 * WIDTH)
        self.narrow = nn.Linear(16 * WIDTH, WIDTH)
        self.factor = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = (self.convolution(x) * self.factor[:, None, None]).flatten(2).mT.contiguous()  # (1, pixels, width)
        heads = x.unflatten(-1, (HEADS, -1)).transpose(1, 2)
        x = x + scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)
        y = Changed.apply(self.wide(x).sin(), self.narrow)
        return (y * self.factor).sin()


class Changed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Linear) -> Tensor:
        ctx.layer = layer
        return linear(x[0], layer.weight, layer.bias).mul_(3)[None]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return 3 * gradient @ ctx.layer.weight, None


class Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[str(func).removeprefix("aten.").partition(".")[0]] += 1
        return func(*args, **(kwargs or {}))


def made() -> Block:
    torch.manual_seed(0)
    block = Block()
    for layer in (block.convolution, block.wide, block.narrow):
        layer.requires_grad_(False)
    return block


def calls_and_gradient(block: Block, **twice: Any) -> tuple[Counter[str], Tensor]:
    x = torch.linspace(-1, 1, WIDTH * SIDE**2).view(1, WIDTH, SIDE, SIDE).sin().requires_grad_()
    with Counting() as counted:
        y = checkpoint(block, x, use_reentrant=False, **twice) if twice else block(x)
        y.square().sum().backward()
    assert x.grad is not None and block.factor.grad is not None
    gradient, block.factor.grad = torch.cat([x.grad.flatten(), block.factor.grad]), None
    return counted.calls, gradient


def test_costly_results_are_taken_and_bits_stay() -> None:
    block = made()
    once, expected = calls_and_gradient(block)
    twice, same = calls_and_gradient(block, preserve_rng_state=False)
    kept, found = calls_and_gradient(block, context_fn=partial(kept_results.contexts, kept_results.is_narrow))
    assert torch.equal(expected, same) and torch.equal(expected, found)
    for operator in (ATTENTION, CONVOLUTION):
        assert (once[operator], twice[operator], kept[operator]) == (1, 2, 1)
    assert twice["addmm"] == once["addmm"] + 2  # both layers
    assert kept["addmm"] == once["addmm"] + 1  # the wide layer's result would take as much memory as it saves


def test_products_are_computed_once_but_those_of_a_rank() -> None:
    block = made()
    once, expected = calls_and_gradient(block)
    for most_rank, computed in ((WIDTH - 1, 0), (WIDTH, 1)):  # the inputs of the wide layer
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kept_results, "MOST_RANK", most_rank)
            kept, found = calls_and_gradient(block, context_fn=partial(kept_results.contexts, kept_results.is_of_layer))
        assert torch.equal(expected, found)
        assert (kept["addmm"], kept[ATTENTION]) == (once["addmm"] + computed, 1)
