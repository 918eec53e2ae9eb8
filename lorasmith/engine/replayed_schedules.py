"""Learning rates by step: of a shape, or of a scheduler class of a library, which is replayed from its beginning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch

from lorasmith.config import LrScheduleConfig
from lorasmith.engine.lr_schedules import lr_shape
from lorasmith.errors import ConfigError
from lorasmith.libraries import importing_library

# What a scheduler raises that does not take its options, or that needs more than the number of the step.
_REFUSALS = (ValueError, TypeError, KeyError, AttributeError, IndexError, ZeroDivisionError, RuntimeError)


def schedule_of(
    schedule: LrScheduleConfig, base_lrs: Sequence[float], *, lr: float, stop_at: int
) -> Callable[[int], Sequence[float]]:
    """The learning rates of all groups as a function of the step being made (from 1). `lr`: of the denoiser.

    Raises:
        ConfigError: as `ReplayedSchedule`.
    """
    if schedule.is_class:
        return ReplayedSchedule(schedule, base_lrs).rates_at
    shape = lr_shape(schedule, lr=lr, stop_at=stop_at)
    return lambda step: [base * shape.factor_at(step) for base in base_lrs]


class ReplayedSchedule:
    """The rates that a scheduler gives to an optimizer that trains nothing. They are a function of the
    step: there is nothing to save, and any step may be asked for."""

    def __init__(self, schedule: LrScheduleConfig, base_lrs: Sequence[float]) -> None:
        """
        Raises:
            ConfigError: `lr_schedule_no_class`; `lr_schedule_refused`, the class does not take its options, or needs
                more than the number of the step.
        """
        self._shape = schedule.shape
        groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in base_lrs]
        self._optimizer = torch.optim.SGD(groups)
        kind = _class_of(schedule.shape)
        try:
            self._scheduler = kind(self._optimizer, **schedule.args)
        except _REFUSALS as error:
            raise self._refused(error) from None
        self._rates = [self._current()]  # by step, the first being that of step 1

    def rates_at(self, step: int) -> Sequence[float]:
        """The rate of each group.

        Raises:
            ConfigError: as `__init__`.
        """
        try:
            while len(self._rates) < step:
                self._optimizer.step()
                self._scheduler.step()
                self._rates.append(self._current())
        except _REFUSALS as error:
            raise self._refused(error) from None
        return self._rates[step - 1]

    def _current(self) -> list[float]:
        return [float(group["lr"]) for group in self._optimizer.param_groups]

    def _refused(self, error: Exception) -> ConfigError:
        return ConfigError("lr_schedule_refused", shape=self._shape, reason=f"{type(error).__name__}: {error}")


def _class_of(path: str) -> Any:
    module, _, name = path.rpartition(".")
    with importing_library():
        library = import_module(module)
    kind = getattr(library, name, None)
    if not (isinstance(kind, type) and callable(getattr(kind, "step", None))):
        raise ConfigError("lr_schedule_no_class", module=module, name=name)
    return kind
