"""torch's optimizers without what only compiled code needs of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

_WRAPPED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")


def without_compiler(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """Returns one of torch's optimizers as a class that computes the same without torch's compiler, whose import takes
    1.5 s of a processor at each start; an optimizer of another library as it is.

    torch wraps these methods in functions that import the compiler, to keep them out of compiled code. The methods
    here are what is inside of the wrappers.
    """
    if not kind.__module__.startswith("torch.optim"):
        return kind
    inner: Callable[..., Any] = inspect.unwrap(kind.step)

    def step(self: torch.optim.Optimizer, closure: Callable[[], float] | None = None) -> Any:
        with torch.no_grad():  # as the wrapper of `step`
            return inner(self, closure)

    methods = {name: inspect.unwrap(getattr(kind, name)) for name in _WRAPPED}
    return type(
        kind.__name__, (kind,), {**methods, "step": step, "__module__": kind.__module__, "__doc__": kind.__doc__}
    )
