"""The optimizers, by name. Their options go straight to their constructors, checked against the signature."""

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
# The pip name of what a row needs beyond this project's own dependencies.
INSTALL = {"adamw8bit": "bitsandbytes", "lion": "lion-pytorch", "prodigy": "prodigyopt"}
# These treat every number alike, so they get one flat tensor a group: a single call instead of hundreds.
ELEMENTWISE = frozenset({"adamw", "lion"})
# Ours to give: the parameters, the learning rate, and how the update is carried out.
RESERVED = frozenset(
    {
        *("self", "params", "lr", "fused", "foreach", "capturable", "differentiable", "maximize"),
        *("use_triton", "fsdp_in_use"),  # lion-pytorch leaves the process where there is no triton
    }
)


def build_optimizer(
    name: str, adapter: FlatAdapter, *, base_lrs: Mapping[str, float], options: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """The optimizer over the adapter, one parameter group for each of its learning-rate groups, in order.

    Raises:
        ConfigError: an unknown name, an option that its constructor does not take, a library that is not installed.
    """
    make: Callable[..., torch.optim.Optimizer] = check_optimizer(name, options)
    groups = [{"params": _parameters(name, adapter, group), "lr": base_lrs[group]} for group in adapter.groups()]
    extra: dict[str, Any] = {"fused": True} if name == "adamw" else {}
    try:
        return make(groups, lr=groups[0]["lr"], **extra, **_plain(options))
    except (ValueError, TypeError) as error:
        raise ConfigError("optimizer_option_value", optimizer=name, reason=str(error)) from None


def check_optimizer(name: str, options: Mapping[str, Any]) -> type[torch.optim.Optimizer]:
    """The class called `name`, once it is there and takes these options.

    Raises:
        ConfigError: as `build_optimizer`.
    """
    kind = _class_of(name)
    accepted = sorted(set(inspect.signature(kind).parameters) - RESERVED)
    for option in options:
        if option not in accepted:
            raise ConfigError("optimizer_unknown_option", optimizer=name, option=option, accepted=", ".join(accepted))
    return kind


def set_lr(optimizer: torch.optim.Optimizer, base_lrs: Sequence[float], factor: float) -> dict[int, float]:
    """Each group's own base rate times the factor; what each got, by group."""
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
    """The flat part of the group as one parameter, or its matrices; gradients already stand in `.grad`."""
    if name not in ELEMENTWISE:
        return adapter.parameters(group)
    part = adapter.groups()[group]
    flat = nn.Parameter(adapter.flat[part])
    flat.grad = adapter.gradient()[part]
    return [flat]


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """TOML has lists only; betas and the like are tuples everywhere."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
