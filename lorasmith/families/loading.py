"""Builds a component of a model and fills it with its weights. Knows no family; the libraries' classes come from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.errors import ModelError
from lorasmith.families.stored_tensors import DtypeOf, read_component
from lorasmith.families.weights import BaseWeights
from lorasmith.libraries import importing_library, is_memory_error

Build = Callable[[Mapping[str, Any]], nn.Module]
"""Makes a module from its config without weights, on the meta device: nothing is initialised only to be replaced."""


def load_component(
    weights: BaseWeights,
    component: str,
    builder: Callable[[], Build],
    *,
    dtype: torch.dtype | DtypeOf,
    device: torch.device,
    allows_extra: bool,
    installed_name: Callable[[nn.Module, str], str] = lambda _, name: name,
) -> nn.Module:
    """The component with its weights, frozen and in evaluation mode.

    `builder` imports the library. `installed_name` gives the name of a tensor in the installed library from its
    canonical one. With `allows_extra`, tensors that the module has no place for are left out.

    Raises:
        ModelError: `model_damaged`, no module can be made from the config; `model_layers`, tensors are missing, of
            another shape, or too many; as `read_component`.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        reading = pool.submit(read_component, weights, component, dtype)  # leaves the interpreter free to import
        with importing_library():
            build = builder()
        try:
            module = build(weights.configs[component])
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
            if is_memory_error(error):
                raise
            where = f"{component}/config.json"
            raise ModelError("model_damaged", path=str(weights.source(component)), where=where) from error
        tensors = reading.result()
    tensors = {installed_name(module, name): tensor for name, tensor in tensors.items()}
    expected = module.state_dict()
    wrong = [name for name in expected if name not in tensors]
    if not allows_extra:
        wrong += [name for name in tensors if name not in expected]
    chosen = {name: _fitted(tensors[name], expected[name]) for name in expected.keys() & tensors.keys()}
    wrong += [name for name, tensor in chosen.items() if tensor.shape != expected[name].shape]
    if wrong:
        raise ModelError(
            "model_layers", path=str(weights.source(component)), component=component, count=len(wrong), first=min(wrong)
        )
    module.load_state_dict(chosen, strict=True, assign=True)
    return module.requires_grad_(False).eval().to(device)


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
