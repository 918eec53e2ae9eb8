"""The optimizers, by name. Their options are checked against their constructors' signatures and passed on unchanged."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import nn

from lorasmith.adapters.flat import FlatAdapter
from lorasmith.errors import ConfigError, InputError
from lorasmith.libraries import importing_library

OPTIMIZERS = {
    "adamw": "torch.optim:AdamW",
    "adamw8bit": "bitsandbytes.optim:AdamW8bit",
    "adafactor": "torch.optim:Adafactor",
    "lion": "lion_pytorch:Lion",
    "prodigy": "prodigyopt:Prodigy",
}
# The package to install for an optimizer that this project's own dependencies do not bring.
INSTALL = {"adamw8bit": "bitsandbytes", "lion": "lion-pytorch", "prodigy": "prodigyopt"}
# These update each number by itself, so they get a single flat tensor per group: one call instead of hundreds.
ELEMENTWISE = frozenset({"adamw", "lion"})
# Set by this program: the parameters, the learning rate, and how the update is carried out.
RESERVED = frozenset(
    {
        *("self", "params", "lr", "fused", "foreach", "capturable", "differentiable", "maximize"),
        *("use_triton", "fsdp_in_use"),  # lion-pytorch ends the process if there is no triton
    }
)


def build_optimizer(
    name: str, adapter: FlatAdapter, *, base_lrs: Mapping[str, float], options: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """Makes the optimizer of an adapter, with a parameter group for each of its learning-rate groups, in order.

    Raises:
        ConfigError: unknown name, option that the constructor does not take, or library that is not installed.
    """
    make: Callable[..., torch.optim.Optimizer] = check_optimizer(name, options)
    groups = [{"params": _parameters(name, adapter, group), "lr": base_lrs[group]} for group in adapter.groups()]
    extra: dict[str, Any] = {"fused": True} if name == "adamw" else {}
    try:
        return make(groups, lr=groups[0]["lr"], **extra, **_plain(options))
    except (ValueError, TypeError) as error:
        raise ConfigError("optimizer_option_value", optimizer=name, reason=str(error)) from None


def check_optimizer(name: str, options: Mapping[str, Any]) -> type[torch.optim.Optimizer]:
    """Returns the class called `name` after checking that it is installed and takes these options.

    Raises:
        ConfigError: see `build_optimizer`.
    """
    kind = _class_of(name)
    accepted = sorted(set(inspect.signature(kind).parameters) - RESERVED)
    for option in options:
        if option not in accepted:
            raise ConfigError("optimizer_unknown_option", optimizer=name, option=option, accepted=", ".join(accepted))
    return kind


def set_lr(optimizer: torch.optim.Optimizer, base_lrs: Sequence[float], factor: float) -> dict[int, float]:
    """Sets each group's learning rate to its base rate times the factor; returns the rates by group number."""
    for group, base in zip(optimizer.param_groups, base_lrs, strict=True):
        group["lr"] = base * factor
    return {number: float(group["lr"]) for number, group in enumerate(optimizer.param_groups)}


def _class_of(name: str) -> type[torch.optim.Optimizer]:
    if name not in OPTIMIZERS:
        raise ConfigError("optimizer_unknown", optimizer=name, accepted=", ".join(OPTIMIZERS))
    module, _, attribute = OPTIMIZERS[name].partition(":")
    try:
        with importing_library():
            library = import_module(module)
    except InputError as error:
        if error.code != "dependency_missing" or name not in INSTALL:
            raise
        reason = str(error.fields["reason"])
        raise ConfigError("optimizer_not_installed", optimizer=name, package=INSTALL[name], reason=reason) from None
    kind: type[torch.optim.Optimizer] = getattr(library, attribute)
    return kind


def _parameters(name: str, adapter: FlatAdapter, group: str) -> list[nn.Parameter]:
    """The group's part of the flat buffer as one parameter, or its matrices; with `.grad` set to the gradients."""
    if name not in ELEMENTWISE:
        return adapter.parameters(group)
    part = adapter.groups()[group]
    flat = nn.Parameter(adapter.flat[part])
    flat.grad = adapter.gradient()[part]
    return [flat]


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with tuples for lists: TOML has only lists, optimizers take betas as a tuple."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
