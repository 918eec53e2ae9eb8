"""Makes optimizers by name or by class. Their options are checked against their constructors' signatures and passed on
unchanged."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from lorasmith.adapters.flat import FlatAdapter
from lorasmith.config.optimizer_table import OPTIMIZERS, KnownOptimizer, known_optimizer, uses_relative_steps
from lorasmith.engine.device import seed_model
from lorasmith.engine.plain_steps import without_compiler
from lorasmith.errors import ConfigError, InputError
from lorasmith.libraries import importing_library

# These update each number by itself, so they get a single flat tensor per group: one call instead of hundreds.
ELEMENTWISE = frozenset({"adamw", "lion"})
# Set by this program: the parameters, the learning rate, and how the update is carried out.
RESERVED = frozenset(
    {
        *("self", "params", "lr", "fused", "foreach", "capturable", "differentiable", "maximize", "kwargs", "args"),
        *("use_triton", "fsdp_in_use"),  # lion-pytorch ends the process if there is no triton
        "fused_back_pass",  # the update would be made before the gradients of a step are complete
        "log_every",  # prints
    }
)


def build_optimizer(
    name: str, adapter: FlatAdapter, *, base_lrs: Mapping[str, float], options: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """Makes the optimizer of an adapter, with a parameter group for each of its learning-rate groups, in order.

    Raises:
        ConfigError: unknown name, option that the constructor does not take, or library that is not installed.
    """
    make: Callable[..., torch.optim.Optimizer] = without_compiler(check_optimizer(name, options))
    groups = [{"params": _parameters(name, adapter, group), "lr": base_lrs[group]} for group in adapter.groups()]
    known = _known(name)
    extra: dict[str, Any] = {"fused": True} if name == "adamw" else {}
    lr = None if uses_relative_steps(name, options) else groups[0]["lr"]
    try:
        optimizer = make(groups, lr=lr, **extra, **known.always, **_plain({**known.options, **options}))
    except (ValueError, TypeError, AssertionError) as error:
        raise ConfigError("optimizer_option_value", optimizer=name, reason=str(error)) from None
    _set_mode(optimizer, "train")
    return optimizer


def check_optimizer(name: str, options: Mapping[str, Any]) -> type[torch.optim.Optimizer]:
    """Returns the class of an optimizer after checking that it is installed and takes these options.

    Raises:
        ConfigError: see `build_optimizer`.
    """
    kind = _class_of(name)
    known = _known(name)
    accepted = sorted(set(inspect.signature(kind).parameters) - RESERVED - known.always.keys())
    for option in options:
        if option not in accepted:
            raise ConfigError("optimizer_unknown_option", optimizer=name, option=option, accepted=", ".join(accepted))
    return kind


def update(optimizer: torch.optim.Optimizer, lrs: Sequence[float], *, seed: int) -> list[float]:
    """Makes one update with these learning rates by group, and returns the rates that it used.

    Args:
        seed: of the global generators, from which some optimizers draw: a function of the step.
    """
    set_rates(optimizer, lrs)
    if not type(optimizer).__module__.startswith("torch.optim"):
        seed_model(seed)
        numpy.random.seed(seed % 2**32)
        random.seed(seed)
    optimizer.step()
    return _relative_rates(optimizer) if optimizer.defaults.get("relative_step") else list(lrs)


def set_rates(optimizer: torch.optim.Optimizer, lrs: Sequence[float]) -> None:
    """Sets the learning rate of each group, in place where it is a tensor, as torchao's optimizers have it."""
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def load_optimizer_state(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Loads a saved state with every tensor in the data type that it was saved in: torch's own `load_state_dict`
    converts them to that of their parameter, from which an optimizer with tensors of another type continues otherwise
    than it would have."""
    optimizer.load_state_dict(saved)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, entries in saved["state"].items():
        own = optimizer.state[parameters[number]] if isinstance(number, int) else {}
        for key, value in entries.items() if isinstance(entries, Mapping) else ():
            loaded = own.get(key)
            if isinstance(value, Tensor) and isinstance(loaded, Tensor) and loaded.dtype != value.dtype:
                own[key] = value.to(loaded.device)


def plain_parts(tensor: Tensor) -> list[Tensor]:
    """The tensors that a tensor is made of: several for a quantised one, as torchao's optimizers keep."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return [tensor]
    return [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]


@contextmanager
def evaluation_mode(optimizer: torch.optim.Optimizer, flat: Tensor) -> Iterator[None]:
    """Fills `flat` with the weights that the optimizer means to be used, within the `with` block; schedule-free
    optimizers train with others. Afterwards every bit is as before: their own way back only comes near."""
    if not (has_evaluation_weights(optimizer) and any(optimizer.state.values())):  # nothing has been trained
        yield
        return
    training = flat.clone()
    state = {parameter: dict(entries) for parameter, entries in optimizer.state.items()}
    tensors = [value for entries in state.values() for value in entries.values() if isinstance(value, Tensor)]
    before = [tensor.clone() for tensor in tensors]
    try:
        _set_mode(optimizer, "eval")
        yield
    finally:
        _set_mode(optimizer, "train")
        with torch.no_grad():
            for tensor, value in zip([flat, *tensors], [training, *before], strict=True):
                tensor.copy_(value)
        optimizer.state.update(state)


def has_evaluation_weights(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer trains with other weights than it means to be used."""
    return callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))


def _set_mode(optimizer: torch.optim.Optimizer, mode: str) -> None:
    if has_evaluation_weights(optimizer):
        with torch.no_grad():
            getattr(optimizer, mode)()


def _relative_rates(optimizer: torch.optim.Optimizer) -> list[float]:
    """The rates that transformers' Adafactor used, of the first matrix of each group, as its own schedule shows."""
    first = [(group, optimizer.state[group["params"][0]]) for group in optimizer.param_groups]
    return [float(optimizer._get_lr(group, state)) for group, state in first]  # type: ignore[attr-defined]


def _known(name: str) -> KnownOptimizer:
    known = known_optimizer(name)
    if known is None:
        raise ConfigError("optimizer_unknown", optimizer=name, accepted=", ".join(OPTIMIZERS))
    return known


def _class_of(name: str) -> type[torch.optim.Optimizer]:
    known = _known(name)
    module, _, attribute = known.path.partition(":")
    try:
        with importing_library():
            library = import_module(module)
    except InputError as error:
        if error.code != "dependency_missing" or not known.package:
            raise
        reason = str(error.fields["reason"])
        raise ConfigError("optimizer_not_installed", optimizer=name, package=known.package, reason=reason) from None
    kind = getattr(library, attribute, None)
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        raise ConfigError("optimizer_no_class", module=module, name=attribute)
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
