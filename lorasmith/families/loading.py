"""Builds a component of a model and fills it with its weights. Knows no family; the libraries' classes come from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lorasmith.errors import ModelError
from lorasmith.families.stored_tensors import DtypeOf, component_tensors, read_component
from lorasmith.families.weights import BaseWeights
from lorasmith.libraries import importing_library, is_memory_error

Build = Callable[[Mapping[str, Any]], nn.Module]
"""Makes a module from its config without weights, on the meta device: nothing is initialised only to be replaced."""


class Store(Protocol):
    """Takes the tensors of a model that is on the meta device, each as it is read."""

    def put(self, name: str, tensor: Tensor) -> None:
        """Puts the tensor `name` of the model's state in its place, from the CPU's memory."""

    def finish(self) -> None:
        """Is called once, after the last tensor."""


StoreOf = Callable[[nn.Module], Store]
"""Makes the store of a model that is frozen and on the meta device."""

Destination = torch.device | StoreOf
"""The place of a model's weights: a device, on which they are as they were read, or a store."""


def load_component(
    weights: BaseWeights,
    component: str,
    builder: Callable[[], Build],
    *,
    dtype: torch.dtype | DtypeOf,
    to: Destination,
    allows_extra: bool,
    installed_name: Callable[[nn.Module, str], str] = lambda _, name: name,
) -> nn.Module:
    """The component with its weights, frozen and in evaluation mode.

    `builder` imports the library. `installed_name` gives the name of a tensor in the installed library from its
    canonical one. With `allows_extra`, tensors that the module has no place for are left out. Tensors are put into a
    store `to` one after the other, and only few are in memory at a time.

    Raises:
        ModelError: `model_damaged`, no module can be made from the config; `model_layers`, tensors are missing, of
            another shape, or too many; as `read_component`.
    """
    if isinstance(to, torch.device):
        store: StoreOf = partial(_DeviceStore, device=to)
        with ThreadPoolExecutor(max_workers=1) as pool:
            reading = pool.submit(read_component, weights, component, dtype)  # leaves the interpreter free to import
            module = _built(weights, component, builder)
            tensors: Iterable[tuple[str, Tensor]] = reading.result().items()
    else:
        store, module = to, _built(weights, component, builder)
        tensors = component_tensors(weights, component, dtype)
    expected = module.state_dict()
    names = ((installed_name(module, name), tensor) for name, tensor in tensors)
    wrong = _put_all(names, expected, store(module), allows_extra=allows_extra)
    if wrong:
        raise ModelError(
            "model_layers", path=str(weights.source(component)), component=component, count=len(wrong), first=min(wrong)
        )
    return module


def _built(weights: BaseWeights, component: str, builder: Callable[[], Build]) -> nn.Module:
    """The module, frozen, in evaluation mode and on the meta device."""
    with importing_library():
        build = builder()
    try:
        module = build(weights.configs[component])
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        if is_memory_error(error):
            raise
        where = f"{component}/config.json"
        raise ModelError("model_damaged", path=str(weights.source(component)), where=where) from error
    return module.requires_grad_(False).eval()


def _put_all(
    tensors: Iterable[tuple[str, Tensor]], expected: Mapping[str, Tensor], store: Store, *, allows_extra: bool
) -> list[str]:
    """Puts tensors in their places. Returns the names of those that are missing, too many or of another shape; with any
    of these the module is not complete."""
    wrong, missing = [], set(expected)
    for name, tensor in tensors:
        if name in expected:
            missing.discard(name)
            fitted = _fitted(tensor, expected[name])
            if fitted.shape == expected[name].shape:
                store.put(name, fitted)
                continue
        elif allows_extra:
            continue
        wrong.append(name)
    wrong += missing
    if not wrong:
        store.finish()
    return wrong


class _DeviceStore:
    """Puts the tensors on a device as they are."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._module, self._device = module, device
        self._tensors: dict[str, Tensor] = {}

    def put(self, name: str, tensor: Tensor) -> None:
        self._tensors[name] = tensor

    def finish(self) -> None:
        self._module.load_state_dict(self._tensors, strict=True, assign=True)
        self._module.to(self._device)


def on_meta_device(kind: Any) -> Build:
    """The build function of a model class of diffusers."""

    def build(config: Mapping[str, Any]) -> nn.Module:
        with torch.device("meta"):
            return kind.from_config(dict(config))

    return build


def _fitted(tensor: Tensor, expected: Tensor) -> Tensor:
    """Single files keep a VAE's attention as 1x1 convolutions, where the libraries have linear layers, and its
    convolutions over films of one frame with an axis of time."""
    if tensor.ndim == 4 and expected.ndim == 2:
        return tensor.flatten(1)
    return tensor.squeeze(2) if tensor.ndim == 5 and expected.ndim == 4 and tensor.shape[2] == 1 else tensor
