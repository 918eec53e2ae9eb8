"""Schedulers of libraries, replayed: the rates of every step, whichever is asked for first."""

from typing import Any

import pytest

from lorasmith.config import LrScheduleConfig
from lorasmith.engine.replayed_schedules import schedule_of
from lorasmith.errors import ConfigError

STEP_LR = {"shape": "torch.optim.lr_scheduler.StepLR", "args": {"step_size": 3, "gamma": 0.5}}
ONE_CYCLE = {
    "shape": "torch.optim.lr_scheduler.OneCycleLR",
    "args": {"max_lr": 1e-3, "total_steps": 12, "cycle_momentum": False},
}
# As sd-scripts (commit 48d368fa) gives them with --lr_scheduler_type, in units of a learning rate of 1e-4.
THEIRS = [
    (STEP_LR, [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]),
    (ONE_CYCLE, [0.4, 3.497897, 8.792852, 9.944154, 9.33013, 8.117457, 6.47379, 4.626371, 2.83061, 1.334775]),
]


def rates_of(settings: dict[str, Any], base_lrs: list[float], stop_at: int = 10) -> Any:
    return schedule_of(LrScheduleConfig(**settings), base_lrs, lr=base_lrs[0], stop_at=stop_at)


@pytest.mark.parametrize(("settings", "factors"), THEIRS)
def test_as_sd_scripts(settings: dict[str, Any], factors: list[float]) -> None:
    rates = rates_of(settings, [1e-4])
    found = [rates(step)[0] / 1e-4 for step in range(1, 11)]
    assert found == pytest.approx(factors, abs=1e-6)


@pytest.mark.parametrize("settings", [STEP_LR, ONE_CYCLE, {"shape": "cosine", "warmup_steps": 2}])
def test_a_function_of_the_step(settings: dict[str, Any]) -> None:
    """A run that continues at step 8 asks for no step before it."""
    straight, continued = rates_of(settings, [1e-4, 5e-5]), rates_of(settings, [1e-4, 5e-5])
    rows = [list(straight(step)) for step in range(1, 11)]
    assert [list(continued(step)) for step in (8, 9, 10, 8, 1)] == [rows[step - 1] for step in (8, 9, 10, 8, 1)]
    assert rows[4][0] != rows[4][1] or settings is ONE_CYCLE


@pytest.mark.parametrize(
    ("shape", "args", "code"),
    [
        ("torch.optim.lr_scheduler.Nothing", {}, "lr_schedule_no_class"),
        ("torch.optim.lr_scheduler.StepLR", {"step": 3}, "lr_schedule_refused"),
        ("torch.optim.lr_scheduler.ReduceLROnPlateau", {}, "lr_schedule_refused"),
        ("torch.optim.lr_scheduler.OneCycleLR", {"max_lr": 1e-3, "total_steps": 5}, "lr_schedule_refused"),
    ],
)
def test_what_cannot_be_used(shape: str, args: dict[str, Any], code: str) -> None:
    """The last because it would change a momentum too, of an optimizer that nobody trains with."""
    with pytest.raises(ConfigError, match=code):
        rates_of({"shape": shape, "args": args}, [1e-4])(10)


def test_one_that_ends_too_early() -> None:
    args = {"max_lr": 1e-3, "total_steps": 5, "cycle_momentum": False}
    rates = rates_of({"shape": "torch.optim.lr_scheduler.OneCycleLR", "args": args}, [1e-4])
    rates(6)
    with pytest.raises(ConfigError, match="lr_schedule_refused"):
        rates(7)
