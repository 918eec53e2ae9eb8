"""DoRA (arXiv 2402.09353): a LoRA for the directions of a weight's columns, and a number for the length of each."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import conv2d

from lorasmith.adapters.base import AdapterLayer, LayerSettings
from lorasmith.adapters.lora import DOWN, UP, Lora
from lorasmith.adapters.operation import Operation
from lorasmith.targets import LayerSpec

MAGNITUDE = "dora_scale"
_EPS = torch.finfo(torch.float32).eps  # readers add it to every norm


class Dora(Lora):
    """The kind `dora`, an AdapterKind: W becomes magnitude * V / ||V||, where V = W + alpha / rank * up @ down.

    A norm is that of all numbers that an input is multiplied by, so that there is a magnitude for each input: readers
    apply these as trained, and magnitudes for each output not (ADR 24). Magnitudes start as the norms that readers
    compute, so that the first change is exactly zero.
    """

    name = "dora"
    suffixes = (DOWN, UP, MAGNITUDE)
    row_suffixes: frozenset[str] = frozenset()
    float32_suffixes = frozenset({MAGNITUDE})
    network_module = "lycoris.kohya"
    network_args: Mapping[str, str] = {"algo": "lora", "dora_wd": "True", "wd_on_output": "False"}

    def shapes(self, layer: LayerSpec, settings: LayerSettings) -> dict[str, tuple[int, ...]]:
        pointwise = (1,) * len(layer.kernel)
        return {**super().shapes(layer, settings), MAGNITUDE: (1, layer.inputs, *pointwise)}

    def init(self, base: nn.Module, tensors: Mapping[str, Tensor], generator: Generator) -> None:
        super().init(base, tensors, generator)
        norms = Columns(base.get_parameter("weight")).norms(tensors[DOWN], tensors[UP])
        tensors[MAGNITUDE].copy_(norms.view_as(tensors[MAGNITUDE]))

    def layer(self, base: nn.Module, tensors: Mapping[str, nn.Parameter], settings: LayerSettings) -> AdapterLayer:
        return DoraLayer(base, tensors, settings)

    def delta(self, weight: Tensor, tensors: Mapping[str, Tensor], settings: LayerSettings) -> Tensor:
        weight = weight.to(tensors[UP].dtype)
        moved = weight + super().delta(weight, tensors, settings)
        norms = moved.transpose(0, 1).flatten(1).norm(dim=1) + _EPS
        factors = (tensors[MAGNITUDE].flatten() / norms).view(-1, *[1] * (weight.ndim - 2))
        change: Tensor = moved * factors - weight
        return change


class Columns:
    """The numbers of a weight that each input is multiplied by, and their norm after a change of low rank."""

    def __init__(self, weight: Tensor) -> None:
        self.inputs = weight.shape[1]
        self.squares = weight.detach().to(torch.float32).flatten(1).square().sum(0)  # constant
        self.weight = weight.detach()

    def norms(self, down: Tensor, up: Tensor) -> Tensor:
        """(inputs,): the norms of the columns of weight + up @ down, without a tensor of the weight's size.

        A column's square is that of the weight's, twice their product and the square of the change. The product is as
        precise as the weight, like that of any change with an input.
        """
        down, up = down.flatten(1), up.flatten(1)
        crossed = (up.t().to(self.weight.dtype) @ self.weight.flatten(1)).to(torch.float32)
        squares = self.squares + (2 * crossed + (up.t() @ up) @ down).mul_(down).sum(0)
        return squares.view(self.inputs, -1).sum(1).clamp_(min=0).sqrt_() + _EPS


class DoraLayer(AdapterLayer):
    """The frozen layer and its LoRA, on inputs that are multiplied by magnitude / norm.

    The gradient takes the norm as a constant, as section 4.3 of the paper proposes and PEFT does: it then needs neither
    the changed weight nor its gradient.
    """

    base: nn.Linear | nn.Conv2d

    def __init__(self, base: nn.Module, tensors: Mapping[str, nn.Parameter], settings: LayerSettings) -> None:
        super().__init__(base, settings)
        self.operation = Operation(base)
        self.down, self.up, self.magnitude = tensors[DOWN], tensors[UP], tensors[MAGNITUDE]
        self.scale = settings.alpha / settings.rank
        self.columns = Columns(base.get_parameter("weight"))

    def applied(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32 or not self.is_whole:
            return super().applied(x)
        factors = self._factors()  # one product with the weight is enough, exact in float32 alone
        return self._with_low_rank(self.base(x * _along(x, factors)), x, factors, 1.0)

    def changed(self, y: Tensor, x: Tensor) -> Tensor:
        factors = self._factors()
        beyond = _along(x, self.multiplier * (factors - 1))  # near zero, where lower precisions are as precise as ever
        y = self.operation.add_to(y, x * beyond.to(x.dtype), self.base.weight)
        return self._with_low_rank(y, x, factors, self.multiplier)

    def _factors(self) -> Tensor:
        """(inputs,): by how much each input is multiplied."""
        with torch.no_grad():
            norms = self.columns.norms(self.down, self.scale * self.up)
        return self.magnitude.flatten() / norms

    def _with_low_rank(self, y: Tensor, x: Tensor, factors: Tensor, multiplier: float) -> Tensor:
        """`y` with the change of low rank of the inputs times `factors`, which `down` takes up."""
        window = self.down.shape[1] // len(factors)
        down = (self.down * factors[:, None].expand(-1, window).flatten()).to(x.dtype)
        up = (multiplier * self.scale * self.up).to(x.dtype)
        low_rank = self.drop_ranks(self.operation(x, down))
        if x.ndim == 4:
            return y + conv2d(low_rank, up[:, :, None, None])
        return self.operation.add_to(y, low_rank, up)


def _along(x: Tensor, factors: Tensor) -> Tensor:
    """The factors of the inputs in a shape that multiplies them."""
    return factors[:, None, None] if x.ndim == 4 else factors
