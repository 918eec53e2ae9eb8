"""Linear layers that are called with the same input one after the other, as q, k and v of an attention: one product of
their frozen weights, one of their low-rank matrices, and one sum of their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lorasmith.adapters.fused import FrozenProduct, Pair, frozen_product


class Joinable(Protocol):
    """A layer with a pair in the working copy."""

    base: nn.Module

    @property
    def pair(self) -> Pair | None:
        """None of a layer that has no part in joined products."""


class JoinedLayers:
    """Computes the outputs of all layers when the first is called, and hands the others theirs.

    Their weights become parts of one matrix, which takes no more memory than they did.
    """

    def __init__(self, layers: Sequence[Joinable], base: nn.Module, product: FrozenProduct, trained: Tensor) -> None:
        pairs = [layer.pair for layer in layers]
        self.layers, self.base, self.product, self.trained = layers, base, product, trained
        self.pairs = [pair for pair in pairs if pair is not None]
        first = self.pairs[0]
        self.copy, self.scale = first.copy, first.scale
        self.down_t = _stacked([pair.down for pair in self.pairs]).mT  # (count, in, rank)
        self.up = _stacked([pair.up for pair in self.pairs])  # (count, out, rank)
        self.up_t = self.up.mT
        self.down_gradient = _stacked([pair.down_gradient for pair in self.pairs])
        self.up_gradient = _stacked([pair.up_gradient for pair in self.pairs])
        self._input: Tensor | None = None
        self._outputs: dict[int, Tensor] = {}  # of layers not called yet, by their number

    def output(self, number: int, x: Tensor) -> Tensor:
        """The output of a layer; the same tensor is expected from all layers."""
        if self._input is not x or number not in self._outputs:
            outputs = _JoinedRows.apply(x, self, self.trained)  # type: ignore[no-untyped-call]
            self._input, self._outputs = x, dict(enumerate(outputs))
        y = self._outputs.pop(number)
        if not self._outputs:
            self._input = None
        return y

    @property
    def waiting(self) -> int:
        """The number of outputs that no layer asked for yet."""
        return len(self._outputs)

    def forget(self) -> None:
        """Drops outputs that no layer asked for, after a pass that was interrupted."""
        self._input = None
        self._outputs.clear()


def joined(layers: Sequence[Joinable], trained: Tensor) -> JoinedLayers | None:
    """Joins layers; None where they cannot be: of other sizes, or frozen layers of a kind that is not known here."""
    if len(layers) < 2 or not _are_alike(layers):
        return None
    bases = [layer.base for layer in layers]
    whole = nn.Linear(1, 1, bias=False, device="meta")
    whole.weight = _frozen(torch.cat([base.get_parameter("weight").detach() for base in bases]))
    if bases[0].bias is not None:
        whole.bias = _frozen(torch.cat([base.get_parameter("bias").detach() for base in bases]))
    for base, part in zip(bases, whole.weight.detach().chunk(len(bases)), strict=True):
        base.weight = _frozen(part)
    base = whole if type(bases[0]) is nn.Linear else type(bases[0])(whole)
    product = frozen_product(base)
    assert product is not None, type(base).__name__
    return JoinedLayers(layers, base, product, trained)


def _are_alike(layers: Sequence[Joinable]) -> bool:
    """Whether sizes and scales are the same, and the pairs lie at equal distances in the buffer."""
    pairs = [layer.pair for layer in layers]
    if any(pair is None or frozen_product(layer.base) is None for layer, pair in zip(layers, pairs, strict=True)):
        return False
    bases = [layer.base for layer in layers]
    kinds = {(type(base), base.get_parameter("weight").dtype, base.bias is None) for base in bases}
    shapes = {(pair.down.shape, pair.up.shape, pair.scale) for pair in pairs if pair is not None}
    if len(kinds) > 1 or len(shapes) > 1 or bases[0].get_parameter("weight").ndim != 2:
        return False
    return all(
        len({after.storage_offset() - before.storage_offset() for before, after in pairwise(matrices)}) == 1
        for matrices in ([pair.down for pair in pairs if pair], [pair.up for pair in pairs if pair])
    )


def _stacked(matrices: Sequence[Tensor]) -> Tensor:
    """Matrices at equal distances in a buffer as a view of three dimensions."""
    first, second = matrices[:2]
    distance = second.storage_offset() - first.storage_offset()
    return first.as_strided((len(matrices), *first.shape), (distance, *first.stride()), first.storage_offset())


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


class _JoinedRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layers: JoinedLayers, trained: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG004
        rows, count = x.reshape(-1, x.shape[-1]), len(layers.pairs)
        low_rank = torch.bmm(rows.expand(count, *rows.shape), layers.down_t)  # (count, n, rank)
        ctx.save_for_backward(rows, low_rank)
        ctx.layers, ctx.shape = layers, x.shape
        y = layers.product.product(rows)  # (n, count * out)
        y.view(len(rows), count, -1).transpose(0, 1).baddbmm_(low_rank, layers.up_t, alpha=layers.scale)
        return y.view(*x.shape[:-1], -1).chunk(count, -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None]:
        rows, low_rank = ctx.saved_tensors
        layers: JoinedLayers = ctx.layers
        assert layers.copy.is_open, "a backward pass outside of the pass that its gradients belong to"
        count = len(gradients)
        output_gradient = torch.cat(gradients, -1).view(len(rows), -1)  # (n, count * out)
        by_layer = output_gradient.view(len(rows), count, -1).transpose(0, 1)
        of_low_rank = torch.bmm(by_layer, layers.up)  # (count, n, rank)
        layers.down_gradient.baddbmm_(of_low_rank.transpose(1, 2), rows.expand(count, *rows.shape), alpha=layers.scale)
        layers.up_gradient.baddbmm_(by_layer.transpose(1, 2), low_rank, alpha=layers.scale)
        if not ctx.needs_input_grad[0]:
            return None, None, None
        of_input = layers.product.input_gradient(output_gradient)
        for number, pair in enumerate(layers.pairs):
            of_input.addmm_(of_low_rank[number], pair.down, alpha=layers.scale)
        return of_input.view(ctx.shape), None, None
