"""Keeps the weights of frozen layers in a form that takes less memory, or in the computer's memory.

The arithmetic stays that of the run's precision: a layer's weights are made anew where they are needed, in the forward
pass and again in the backward pass, so that no more than a layer of them exists at a time. `w8a8` alone multiplies in
8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear
from torch.nn.grad import conv2d_input

from lorasmith.engine.codecs import BLOCK, CODECS, Codec, Parts, Scratch
from lorasmith.engine.cpu import release_freed_memory
from lorasmith.engine.cpu_products import integer_product_on
from lorasmith.engine.ring import Ring

INTEGER_ROWS = 17  # of inputs, at least, for a product of integers: GPUs have none of fewer
FREED = 1 << 28  # bytes of weights that are freed before the system gets them back
INTEGER_SIDES = 8  # of which inputs and outputs must be multiples there


class FrozenStore:
    """Keeps the linear layers and convolutions of a frozen model in another form, each as soon as its weight is read,
    and puts everything on a device: no memory ever holds the whole model in the run's precision.

    Satisfies `families.loading.Store`.
    """

    def __init__(self, model: nn.Module, form: str, device: torch.device, *, offload: float = 0.0) -> None:
        """The store of a model whose tensors may still be on the meta device.

        Args:
            form: a key of CODECS.
            offload: share of the weights that stays in the computer's memory and is brought to the device at need.
        """
        self._model, self._form, self._device = model, form, device
        layers = {path: layer for path, layer in model.named_modules() if path and type(layer) in _KINDS}
        self._layers = {path: layer for path, layer in layers.items() if _is_storable(layer)}
        self._away = _spread({path: layer.weight.numel() for path, layer in self._layers.items()}, offload)
        self._ring = Ring(device) if self._away else None
        self._freed = 0

    def put(self, name: str, tensor: Tensor) -> None:
        """Puts the tensor `name` of the model's state in its place."""
        path, _, own = name.rpartition(".")
        tensor = tensor.to(self._device)
        if own == "weight" and path in self._layers:
            self._replace(path, tensor)
            return
        owner = self._model.get_submodule(path)
        if own in owner._buffers:
            owner._buffers[own] = tensor
        else:
            owner._parameters[own] = nn.Parameter(tensor, requires_grad=False)

    def finish(self) -> None:
        """Puts on the device what no file holds. Called once all tensors are in their places."""
        for module in self._model.modules():
            if not isinstance(module, _Stored):
                _move_own(module, self._device)
        storages = [module.storage for module in self._model.modules() if isinstance(module, _Stored)]
        if self._ring is not None:
            self._ring.allocate()
        if self._device.type == "cpu" and storages:
            scratch = Scratch(max(storage.decoded_bytes for storage in storages))
            for storage in storages:
                storage.scratch = scratch

    def _replace(self, path: str, weight: Tensor) -> None:
        parent, _, own = path.rpartition(".")
        layer = self._model.get_submodule(path)  # of a weight that files hold twice, what the first was put into
        stored = _KINDS[type(self._layers[path])](layer, weight, self._form)
        if self._ring is not None and path in self._away:
            self._ring.add(stored.storage)
        setattr(self._model.get_submodule(parent), own, stored)
        self._freed += weight.nbytes
        if self._freed >= FREED:
            release_freed_memory()  # which the threads that read the weights have left: this thread would take new
            self._freed = 0


class _Stored(nn.Module):
    """A layer without a weight of its own. Its `weight` is made anew at each use."""

    bias: nn.Parameter | None

    def _keep(self, layer: nn.Module, weight: Tensor, form: str) -> None:
        self.storage = _Storage(weight.detach(), CODECS[form])
        self._parameters["weight"] = self.storage.placeholder  # `register_parameter` refuses: the class has a property
        self.register_parameter("bias", layer._parameters["bias"])

    @property
    def weight(self) -> Tensor:
        """The weight in the run's precision, made anew at each call."""
        return self.storage.weight()

    def get_parameter(self, target: str) -> nn.Parameter:
        """Size, type and device of the weight, without its numbers."""
        return self.storage.placeholder if target == "weight" else super().get_parameter(target)


class StoredLinear(_Stored, nn.Linear):  # type: ignore[misc,override]
    """A frozen linear layer whose weight is kept by a codec."""

    def __init__(self, layer: nn.Linear, weight: Tensor, form: str) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._keep(layer, weight, form)
        sides = (layer.in_features, layer.out_features)
        self.is_integer = form == "w8a8" and not any(side % INTEGER_SIDES for side in sides)
        self.integer_product = integer_product_on(weight.device)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _Linear.apply(x, self)  # type: ignore[no-untyped-call]
        return result


class StoredConv2d(_Stored, nn.Conv2d):  # type: ignore[misc,override]
    """A frozen convolution whose weight is kept by a codec."""

    def __init__(self, layer: nn.Conv2d, weight: Tensor, form: str) -> None:
        nn.Module.__init__(self)
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
        for name in (*names, "padding_mode"):
            setattr(self, name, getattr(layer, name))
        self._keep(layer, weight, form)

    @property
    def window(self) -> tuple[Any, ...]:
        return self.stride, self.padding, self.dilation, self.groups

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _Convolution.apply(x, self)  # type: ignore[no-untyped-call]
        return result


class _Storage:
    """The parts of a weight: on the device, or in the computer's memory behind a ring."""

    def __init__(self, weight: Tensor, codec: Codec) -> None:
        self.codec, self.shape, self.dtype = codec, weight.shape, weight.dtype
        self.kept: Parts = codec.encode(weight)
        self.ring: Ring | None = None
        self.scratch: Scratch | None = None
        numbers = torch.full((), math.nan, dtype=weight.dtype, device=weight.device)
        self.placeholder = nn.Parameter(numbers.expand(weight.shape), requires_grad=False)  # the memory of one number

    @property
    def decoded_bytes(self) -> int:
        """Bytes of the weight in the run's precision, with what a codec fills the last of its blocks with."""
        return (self.shape.numel() + BLOCK) * self.dtype.itemsize

    def parts(self) -> Parts:
        """The parts on the device."""
        return self.kept if self.ring is None else self.ring.take(self)

    def weight(self) -> Tensor:
        return self.codec.decode(self.parts(), self.shape, self.dtype)

    def passing_weight(self) -> Tensor:
        """The weight, valid until the next call of this method for any layer of the model."""
        scratch = None if torch.compiler.is_compiling() else self.scratch
        return self.codec.decode(self.parts(), self.shape, self.dtype, scratch)


class _Linear(torch.autograd.Function):
    """The product with a frozen weight, which is not kept for the gradient of the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: StoredLinear) -> Tensor:
        ctx.layer = layer
        if layer.is_integer and x.numel() >= INTEGER_ROWS * layer.in_features:
            return _integer_linear(x, layer)
        return linear(x, layer.storage.passing_weight(), layer.bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None]:
        """With the weight as it is stored, also where the product was one of integers."""
        return torch.matmul(gradient, ctx.layer.storage.passing_weight()) if ctx.needs_input_grad[0] else None, None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: StoredConv2d) -> Tensor:
        ctx.layer, ctx.input_shape = layer, x.shape
        return conv2d(x, layer.storage.passing_weight(), layer.bias, *layer.window)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None
        weight = ctx.layer.storage.passing_weight()
        of_input: Tensor = conv2d_input(ctx.input_shape, weight, gradient, *ctx.layer.window)  # type: ignore[no-untyped-call]
        return of_input, None


def _integer_linear(x: Tensor, layer: StoredLinear) -> Tensor:
    """The product in 8 bits: each row of the inputs gets a factor as the rows of the weight have. Sums of integers
    are exact, so their order changes no bit."""
    parts = layer.storage.parts()
    rows = x.reshape(-1, layer.in_features).to(torch.float32)
    factors = rows.abs().amax(1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny) / 127
    numbers = (rows / factors).round_().to(torch.int8)
    result = layer.integer_product(numbers, parts["stored"]).to(torch.float32)
    result.mul_(factors).mul_(parts["factors"].t())
    if layer.bias is not None:
        result.add_(layer.bias)
    return result.to(x.dtype).view(*x.shape[:-1], layer.out_features)


_KINDS: Mapping[type[nn.Module], Any] = {nn.Linear: StoredLinear, nn.Conv2d: StoredConv2d}


def _is_storable(layer: nn.Module) -> bool:
    return not isinstance(layer, nn.Conv2d) or (layer.padding_mode == "zeros" and not isinstance(layer.padding, str))


def _move_own(module: nn.Module, device: torch.device) -> None:
    """Moves what a module itself holds, without its children."""
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(device)
    for name, buffer in list(module.named_buffers(recurse=False)):
        setattr(module, name, buffer.to(device))


def _spread(sizes: Mapping[str, int], share: float) -> set[str]:
    """Layers that make up a share of all sizes, spread evenly over their order, so that there is time for a copy
    between any two of them."""
    chosen, missing = set(), 0.0
    for path, size in sizes.items():
        missing += share * size
        if missing >= size / 2:
            chosen.add(path)
            missing -= size
    return chosen
