"""LoRA: beside each frozen layer a pair of low_rank matrices whose product is added to its weights (arXiv 2106.09685).

Knows linear layers and 1x1 convolutions; nothing of models, optimizers, files or names beyond those it is given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from lorasmith.seeding import fold
from lorasmith.targets import TargetModule

DOWN, UP = "lora_down.weight", "lora_up.weight"
_ALIGNED_NUMBERS = 16  # float32 in 64 bytes


class LoraLayer(nn.Module):
    """base(x) + multiplier * scale * up(down(dropout(x))).

    `down` (rank, in) and `up` (out, rank) are float32 whatever the precision of the base; they are rounded to that of
    the activations where they meet them.
    """

    def __init__(
        self, base: nn.Linear | nn.Conv2d, pair: tuple[nn.Parameter, nn.Parameter], *, scale: float, dropout: float
    ) -> None:
        super().__init__()
        self.base: nn.Module = base  # may be replaced by a faster form of itself
        self.down, self.up = pair
        self.kernel = tuple(base.weight.shape[2:])
        self.scale = scale
        self.multiplier = 1.0
        self.dropout = dropout
        self.drops = False

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        if self.multiplier == 0:
            return y
        kept = dropout(x, self.dropout) if self.drops and self.dropout else x
        changed: Tensor = _Change.apply(y, kept, self.down, self.up, self.multiplier * self.scale)  # type: ignore[no-untyped-call]
        return changed


class _Change(torch.autograd.Function):
    """y + scale * up(down(x)), without a tensor of y's size for the second part alone.

    Channels are the last dimension of (..., in), and the second of (B, in, h, w): 4 dimensions are a picture's. Keeps x
    and the low_rank product for the gradients.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
        down, up = down.to(x.dtype), up.to(x.dtype)
        ctx.scale = scale
        if x.ndim == 4:
            pixels = x.flatten(2)  # (B, in, hw)
            low_rank = torch.matmul(down, pixels)  # (B, rank, hw)
            ctx.save_for_backward(pixels, low_rank, down, up)
            return torch.baddbmm(y.flatten(2), up.expand(len(x), *up.shape), low_rank, alpha=scale).view_as(y)
        rows = x.reshape(-1, x.shape[-1])
        low_rank = rows @ down.t()  # (rows, rank)
        ctx.save_for_backward(rows, low_rank, down, up)
        return torch.addmm(y.reshape(-1, y.shape[-1]), low_rank, up.t(), alpha=scale).view_as(y)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, None]:
        x, low_rank, down, up = ctx.saved_tensors
        _, wants_x, wants_down, wants_up, _ = ctx.needs_input_grad
        to_x = to_down = to_up = None
        if gradient.ndim == 4:
            grad_output = gradient.flatten(2)  # (B, out, hw)
            grad_low_rank = torch.matmul(up.t(), grad_output).mul_(ctx.scale)
            if wants_down:
                to_down = torch.bmm(grad_low_rank, x.transpose(1, 2)).sum(0)
            if wants_up:
                to_up = torch.bmm(grad_output, low_rank.transpose(1, 2)).sum(0).mul_(ctx.scale)
            if wants_x:
                to_x = torch.matmul(down.t(), grad_low_rank).view(len(x), -1, *gradient.shape[2:])
        else:
            grad_output = gradient.reshape(-1, gradient.shape[-1])
            grad_low_rank = (grad_output @ up).mul_(ctx.scale)  # (rows, rank)
            if wants_down:
                to_down = grad_low_rank.t() @ x
            if wants_up:
                to_up = (grad_output.t() @ low_rank).mul_(ctx.scale)
            if wants_x:
                to_x = (grad_low_rank @ down).view(*gradient.shape[:-1], -1)
        return gradient, to_x, to_down, to_up, None


class Lora:
    """An Adapter; see `adapters.base`."""

    def __init__(
        self,
        layers: Mapping[str, LoraLayer],
        views: Mapping[str, Sequence[nn.Parameter]],
        components: Mapping[str, slice],
        *,
        flat: Tensor,
        gradient: Tensor,
    ) -> None:
        self.flat = flat
        self._gradient = gradient
        self._layers = dict(layers)
        self._views = {component: list(parameters) for component, parameters in views.items()}
        self._components = dict(components)

    @classmethod
    def attach(cls, targets: Sequence[TargetModule], *, rank: int, alpha: float, dropout: float, seed: int) -> Lora:
        """`down` starts uniform in ±1/sqrt(in), which is Kaiming's for a slope of sqrt(5), `up` at zero."""
        assert targets, "nothing to attach to"
        names = [target.name for target in targets]
        assert len(set(names)) == len(names), "two targets of one name"
        bases = [_base_of(target) for target in targets]
        order = list(dict.fromkeys(target.component for target in targets))
        device = bases[0].weight.device
        size = sum(_padded(rank * side) for base in bases for side in base.weight.shape[:2])
        flat = torch.zeros(size, device=device)
        gradient = torch.zeros(size, device=device)
        layers: dict[str, LoraLayer] = {}
        views: dict[str, list[nn.Parameter]] = {}
        components: dict[str, slice] = {}
        place = 0
        for component in order:
            begin = place
            views[component] = []
            for target, base in zip(targets, bases, strict=True):
                if target.component != component:
                    continue
                outputs, inputs = base.weight.shape[:2]
                down = _view(flat, gradient, place, (rank, inputs))
                up = _view(flat, gradient, place + _padded(down.numel()), (outputs, rank))
                place += _padded(down.numel()) + _padded(up.numel())
                _start(down, seed, target.name)
                layer = LoraLayer(base, (down, up), scale=alpha / rank, dropout=dropout)
                target.replace(layer)
                layers[target.name] = layer
                views[component] += [down, up]
            components[component] = slice(begin, place)
        return cls(layers, views, components, flat=flat, gradient=gradient)

    def components(self) -> dict[str, slice]:
        return dict(self._components)

    def parameters(self, component: str) -> list[nn.Parameter]:
        return list(self._views[component])

    def gradient(self) -> Tensor:
        return self._gradient

    def clear_gradient(self) -> None:
        self._gradient.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """Called `<target>.lora_down.weight` and `….lora_up.weight`; those of convolutions have 4 dimensions."""
        return {name: view.detach().cpu().reshape(shape).clone() for name, (view, shape) in self._named_views().items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        named = self._named_views()
        assert tensors.keys() == named.keys(), "names of another adapter"
        assert all(tensors[name].shape == shape for name, (_, shape) in named.items()), "shapes of another adapter"
        with torch.no_grad():
            for name, (view, _) in named.items():
                view.copy_(tensors[name].reshape(view.shape))

    def set_training(self, training: bool) -> None:
        for layer in self._layers.values():
            layer.drops = training

    def set_multiplier(self, multiplier: float) -> None:
        for layer in self._layers.values():
            layer.multiplier = multiplier

    def _named_views(self) -> dict[str, tuple[nn.Parameter, tuple[int, ...]]]:
        """Tensor name -> the view of it, and its shape in files."""
        named = {}
        for name, layer in self._layers.items():
            for own, view in ((DOWN, layer.down), (UP, layer.up)):
                named[f"{name}.{own}"] = (view, (*view.shape, *layer.kernel))
        return named


def _base_of(target: TargetModule) -> nn.Linear | nn.Conv2d:
    base = target.module
    assert isinstance(base, nn.Linear | nn.Conv2d), f"{target.name}: {type(base).__name__}"
    if isinstance(base, nn.Conv2d):
        plain = base.kernel_size == base.stride == (1, 1) and base.padding == (0, 0) and base.groups == 1
        assert plain, f"{target.name}: only convolutions that are linear layers of each pixel"
    return base


def _padded(numbers: int) -> int:
    """So many float32 numbers that the next view begins at a multiple of 64 bytes, as libraries ask of operands whose
    products are to repeat. What pads is 0 and has no gradient."""
    return -(-numbers // _ALIGNED_NUMBERS) * _ALIGNED_NUMBERS


def _view(flat: Tensor, gradient: Tensor, place: int, shape: tuple[int, int]) -> nn.Parameter:
    """A parameter inside `flat` whose gradient autograd adds up inside `gradient`."""
    size = math.prod(shape)
    parameter = nn.Parameter(flat[place : place + size].view(shape))
    parameter.grad = gradient[place : place + size].view(shape)
    return parameter


def _start(down: nn.Parameter, seed: int, name: str) -> None:
    generator = torch.Generator().manual_seed(fold(seed, "lora", name))
    bound = 1 / math.sqrt(down.shape[1])
    with torch.no_grad():
        down.copy_(torch.empty(down.shape).uniform_(-bound, bound, generator=generator))
