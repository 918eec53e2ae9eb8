"""An adapter of any kind on all its layers, its trained numbers in a single buffer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lorasmith.adapters.base import AdapterKind, AdapterLayer, LayerSettings, by_layer
from lorasmith.adapters.joined import JoinedLayers
from lorasmith.adapters.working_copy import WorkingCopy
from lorasmith.seeding import fold
from lorasmith.targets import LayerSpec, TargetModule

_ALIGNED_BYTES = 64


class AdaptedLayer(NamedTuple):
    """A layer that has an adapter, and how its change is made."""

    spec: LayerSpec
    settings: LayerSettings


class _Place(NamedTuple):
    """Where a tensor lies in the buffer."""

    group: str
    layer: str
    suffix: str
    shape: tuple[int, ...]  # in states and files

    @property
    def matrix(self) -> tuple[int, ...]:
        """The shape in training: all dimensions after the first are flattened, as optimizers expect matrices."""
        return (self.shape[0], math.prod(self.shape[1:])) if len(self.shape) > 2 else self.shape


class FlatAdapter:
    """All trainable numbers lie in one flat float32 buffer, ordered by learning-rate group, layer and suffix.

    Parameters and their gradients are views into the buffer and its gradient, so that clipping, checking, summing and
    updating are single calls.
    """

    def __init__(self, kind: AdapterKind, flat: Tensor) -> None:
        """An adapter without layers; `attach` makes one with layers."""
        self.kind = kind
        self.flat = flat
        """(P,) float32 or bfloat16, on the device of the layers."""
        self.layers: dict[str, AdaptedLayer] = {}
        """By the target's name."""
        self.largest_at_start = 1.0
        """The size of the largest initial number, at least 1: a LoHa begins with some beyond 1, a DoRA with norms."""
        self._gradient = torch.zeros_like(flat)
        self._working_copy = WorkingCopy(flat, self._gradient, flat.dtype)
        self._modules: list[AdapterLayer] = []
        self._sharing: dict[str, list[AdapterLayer]] = {}  # layers that have the same input
        self.joined: list[JoinedLayers] = []
        """Layers whose products are made together."""
        self._groups: dict[str, slice] = {}
        self._views: dict[str, list[nn.Parameter]] = {}  # by group
        self._named: dict[str, tuple[nn.Parameter, tuple[int, ...]]] = {}  # "<layer>.<suffix>": view and stored shape

    @classmethod
    def attach(
        cls,
        kind: AdapterKind,
        targets: Sequence[TargetModule],
        settings: Mapping[str, LayerSettings],
        *,
        seed: int,
        dtype: torch.dtype = torch.float32,
        group_of: Callable[[TargetModule, str], str] = lambda target, _: target.component,
    ) -> FlatAdapter:
        """Replaces each target by a layer with a change of zero; the initial numbers depend on `seed`, the kind's name
        and the target's name alone.

        Args:
            settings: by the target's name.
            group_of: the learning-rate group of a target's tensor, given its suffix.
        """
        assert targets, "nothing to attach to"
        assert len({target.name for target in targets}) == len(targets), "two targets of one name"
        specs = {target.name: target.spec for target in targets}
        places = [
            _Place(group_of(target, suffix), target.name, suffix, shape)
            for target in targets
            for suffix, shape in kind.shapes(specs[target.name], settings[target.name]).items()
        ]
        groups = list(dict.fromkeys(place.group for place in places))
        places.sort(key=lambda place: groups.index(place.group))
        weight = targets[0].module.get_parameter("weight")
        size = sum(_padded(math.prod(place.shape), dtype) for place in places)
        adapter = cls(kind, torch.zeros(size, device=weight.device, dtype=dtype))
        views = adapter._lay_out(places)
        for target in targets:
            base = target.module
            with torch.no_grad():
                kind.init(base, views[target.name], torch.Generator().manual_seed(fold(seed, kind.name, target.name)))
            adapter.layers[target.name] = AdaptedLayer(specs[target.name], settings[target.name])
            adapter._modules.append(kind.layer(base, views[target.name], settings[target.name]))
            target.replace_with(adapter._modules[-1])
            if target.shared_input:
                adapter._sharing.setdefault(target.shared_input, []).append(adapter._modules[-1])
        adapter._working_copy = WorkingCopy(adapter.flat, adapter.gradient(), weight.dtype)
        for module in adapter._modules:
            module.use(adapter._working_copy)
        adapter.largest_at_start = max(1.0, adapter.largest)
        return adapter

    def _lay_out(self, places: Sequence[_Place]) -> dict[str, dict[str, nn.Parameter]]:
        """Makes the views of the buffer, in order, and returns them by layer and suffix."""
        views: dict[str, dict[str, nn.Parameter]] = {}
        start = 0
        for place in places:
            size = math.prod(place.shape)
            view = nn.Parameter(self.flat[start : start + size].view(place.matrix))
            view.grad = self._gradient[start : start + size].view(place.matrix)
            begin = self._groups[place.group].start if place.group in self._groups else start
            start += _padded(size, self.flat.dtype)
            self._groups[place.group] = slice(begin, start)
            self._views.setdefault(place.group, []).append(view)
            self._named[f"{place.layer}.{place.suffix}"] = view, place.shape
            views.setdefault(place.layer, {})[place.suffix] = view
        return views

    @property
    def largest(self) -> float:
        """The size of the largest number."""
        return float(self.flat.abs().max())

    @property
    def draws(self) -> bool:
        """Whether a layer draws random numbers in training."""
        return any(module.draws for module in self._modules)

    def groups(self) -> dict[str, slice]:
        """The part of `flat` that each learning-rate group is, in order."""
        return dict(self._groups)

    def parameters(self, group: str) -> list[nn.Parameter]:
        """The matrices of a group, for optimizers whose update depends on shapes."""
        return list(self._views[group])

    def gradient(self) -> Tensor:
        """(P,), of the type of `flat`: the sum of what backward has added since `clear_gradient`. Not a copy."""
        return self._gradient

    def clear_gradient(self) -> None:
        """Sets the gradient buffer to zero; the views stay."""
        self._gradient.zero_()

    def join(self) -> None:
        """Joins the products of layers that have the same input. Called once the frozen layers have their final form;
        a layer that gets another later is joined no more."""
        found = (layers[0].join(layers) for layers in self._sharing.values())
        self.joined = [layers for layers in found if layers is not None]

    @contextmanager
    def opened(self) -> Iterator[None]:
        """A forward and a backward pass inside of a `with` block, which adds to the gradient. It needs no such block;
        with one it takes fewer operations."""
        try:
            with self._working_copy.opened():
                yield
        finally:
            for layers in self.joined:
                layers.forget()

    def tensors(self, of: Tensor | None = None) -> dict[str, Tensor]:
        """Copies of everything trained, float32 on the CPU, called "<target>.<suffix>". `of`: numbers like `flat`,
        where they are not its own."""
        flat = self.flat if of is None else of
        return {
            name: _part(flat, view).to("cpu", torch.float32, copy=True).reshape(shape)
            for name, (view, shape) in self._named.items()
        }

    def load_tensors(self, tensors: Mapping[str, Tensor], into: Tensor | None = None) -> None:
        """Takes the numbers that `tensors` has returned. Asserts that names and shapes are exactly its own. `into`:
        numbers like `flat`, where they are not its own."""
        assert tensors.keys() == self._named.keys(), "names of another adapter"
        own = {name: shape for name, (_, shape) in self._named.items()}
        assert {name: tensor.shape for name, tensor in tensors.items()} == own, "shapes of another adapter"
        with torch.no_grad():
            for name, (view, _) in self._named.items():
                _part(self.flat if into is None else into, view).copy_(tensors[name].reshape(view.shape))

    @torch.no_grad()
    def limit_norms(self, most: float, *, unless: Tensor | None = None) -> None:
        """Scales the tensors of layers whose change has a larger norm, all by the same factor, until it is `most`;
        none where the 0-d tensor `unless` is positive."""
        matrices = {name: view for name, (view, _) in self._named.items()}
        for name, tensors in by_layer(matrices, self.kind).items():
            norm = self.kind.norm(tensors, self.layers[name].settings)
            factor = (most / norm).clamp(max=1) ** (1 / len(tensors))
            if unless is not None:
                factor = torch.where(unless > 0, torch.ones_like(factor), factor)
            for tensor in tensors.values():
                tensor.mul_(factor)

    def set_training(self, training: bool) -> None:
        """Switches dropout on or off."""
        for module in self._modules:
            module.dropout_active = training

    def set_multiplier(self, multiplier: float) -> None:
        """Scales the whole change: 1 in training, 0 shows the base model."""
        for module in self._modules:
            module.multiplier = multiplier


def _part(flat: Tensor, view: Tensor) -> Tensor:
    """The part of numbers like the buffer that is where `view` is in the buffer."""
    start = view.storage_offset()
    return flat.detach()[start : start + view.numel()].view(view.shape)


def _padded(numbers: int, dtype: torch.dtype) -> int:
    """The count that lets the next view begin at a multiple of 64 bytes, as libraries ask of operands whose products
    are to repeat. The padding is 0 and has no gradient."""
    aligned = _ALIGNED_BYTES // dtype.itemsize
    return -(-numbers // aligned) * aligned
