"""The learning rate's factor: by hand, and as sd-scripts gives it."""

from typing import Any

import pytest

from lorasmith.config import LrScheduleConfig
from lorasmith.engine.lr_schedules import LrShape, lr_shape
from lorasmith.errors import ConfigError

TABLE = {
    "constant": [1.0] * 10,
    "linear": [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1],
    "cosine": [1.0, 0.975528, 0.904508, 0.793893, 0.654508, 0.5, 0.345492, 0.206107, 0.095492, 0.024472],
    "cosine_with_restarts:2": [1.0, 0.904508, 0.654508, 0.345492, 0.095492] * 2,
    "cosine_with_restarts": [1.0, 0.975528, 0.904508, 0.793893, 0.654508, 0.5, 0.345492, 0.206107, 0.095492, 0.024472],
}
# Settings, warm-up, and the factors that sd-scripts (commit 48d368fa, transformers 4.54.1) gives the ten updates of a
# run with a learning rate of 1e-4.
THEIRS: list[tuple[dict[str, Any], int, list[float]]] = [
    ({"shape": "linear"}, 0, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
    (
        {"shape": "linear"},
        3,
        [0.0, 0.333333, 0.666667, 1.0, 0.857143, 0.714286, 0.571429, 0.428571, 0.285714, 0.142857],
    ),
    (
        {"shape": "cosine"},
        0,
        [1.0, 0.975528, 0.904508, 0.793893, 0.654508, 0.5, 0.345492, 0.206107, 0.095492, 0.024472],
    ),
    ({"shape": "cosine"}, 3, [0.0, 0.333333, 0.666667, 1.0, 0.950484, 0.811745, 0.61126, 0.38874, 0.188255, 0.049516]),
    (
        {"shape": "cosine_with_restarts", "cycles": 3},
        0,
        [1.0, 0.793893, 0.345492, 0.024472, 0.904508, 0.5, 0.095492, 0.975528, 0.654508, 0.206107],
    ),
    (
        {"shape": "cosine_with_restarts", "cycles": 3},
        3,
        [0.0, 0.333333, 0.666667, 1.0, 0.61126, 0.049516, 0.811745, 0.188255, 0.950484, 0.38874],
    ),
    (
        {"shape": "cosine_with_min_lr", "min_ratio": 0.1},
        0,
        [1.0, 0.977975, 0.914058, 0.814503, 0.689058, 0.55, 0.410942, 0.285497, 0.185942, 0.122025],
    ),
    (
        {"shape": "cosine_with_min_lr", "min_ratio": 0.1},
        3,
        [0.0, 0.333333, 0.666667, 1.0, 0.955436, 0.83057, 0.650134, 0.449866, 0.26943, 0.144564],
    ),
    (
        {"shape": "cosine_with_min_lr", "min_ratio": 0.1, "cycles": 3},
        0,
        [1.0, 0.814503, 0.410942, 0.122025, 0.185942, 0.55, 0.914058, 0.977975, 0.689058, 0.285497],
    ),
    (
        {"shape": "cosine_with_min_lr", "min_ratio": 0.1, "cycles": 3},
        3,
        [0.0, 0.333333, 0.666667, 1.0, 0.650134, 0.144564, 0.26943, 0.83057, 0.955436, 0.449866],
    ),
    ({"shape": "polynomial"}, 0, [1.0, 0.9001, 0.8002, 0.7003, 0.6004, 0.5005, 0.4006, 0.3007, 0.2008, 0.1009]),
    (
        {"shape": "polynomial"},
        3,
        [0.0, 0.333333, 0.666667, 1.0, 0.857286, 0.714571, 0.571857, 0.429143, 0.286429, 0.143714],
    ),
    (
        {"shape": "polynomial", "power": 2.0},
        0,
        [1.0, 0.81019, 0.64036, 0.49051, 0.36064, 0.25075, 0.16084, 0.09091, 0.04096, 0.01099],
    ),
    (
        {"shape": "polynomial", "power": 2.0},
        3,
        [0.0, 0.333333, 0.666667, 1.0, 0.734959, 0.510694, 0.327204, 0.18449, 0.082551, 0.021388],
    ),
    ({"shape": "polynomial", "args": {"lr_end": 2e-05}}, 0, [1.0, 0.92, 0.84, 0.76, 0.68, 0.6, 0.52, 0.44, 0.36, 0.28]),
    (
        {"shape": "polynomial", "args": {"lr_end": 2e-05}},
        3,
        [0.0, 0.333333, 0.666667, 1.0, 0.885714, 0.771429, 0.657143, 0.542857, 0.428571, 0.314286],
    ),
    ({"shape": "inverse_sqrt"}, 0, [1.0, 0.99995, 0.9999, 0.99985, 0.9998, 0.99975, 0.9997, 0.99965, 0.9996, 0.99955]),
    (
        {"shape": "inverse_sqrt"},
        3,
        [0.0, 0.333333, 0.666667, 1.0, 0.866025, 0.774597, 0.707107, 0.654654, 0.612372, 0.57735],
    ),
    (
        {"shape": "inverse_sqrt", "timescale": 5},
        0,
        [1.0, 0.912871, 0.845154, 0.790569, 0.745356, 0.707107, 0.6742, 0.645497, 0.620174, 0.597614],
    ),
    (
        {"shape": "inverse_sqrt", "timescale": 5},
        3,
        [0.0, 0.333333, 0.666667, 1.0, 0.912871, 0.845154, 0.790569, 0.745356, 0.707107, 0.6742],
    ),
    (
        {"shape": "warmup_stable_decay", "decay_steps": 4},
        0,
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.853553, 0.5, 0.146447],
    ),
    (
        {"shape": "warmup_stable_decay", "decay_steps": 4},
        3,
        [0.0, 0.333333, 0.666667, 1.0, 1.0, 1.0, 1.0, 0.853553, 0.5, 0.146447],
    ),
    (
        {"shape": "warmup_stable_decay", "decay_steps": 4, "min_ratio": 0.2},
        0,
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.882843, 0.6, 0.317157],
    ),
    (
        {"shape": "warmup_stable_decay", "decay_steps": 4, "min_ratio": 0.2},
        3,
        [0.2, 0.466667, 0.733333, 1.0, 1.0, 1.0, 1.0, 0.882843, 0.6, 0.317157],
    ),
    (
        {"shape": "warmup_stable_decay", "decay_steps": 4, "args": {"decay_type": "linear"}},
        0,
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25],
    ),
    (
        {"shape": "warmup_stable_decay", "decay_steps": 4, "args": {"decay_type": "linear"}},
        3,
        [0.0, 0.333333, 0.666667, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25],
    ),
    (
        {"shape": "warmup_stable_decay", "decay_steps": 4, "args": {"decay_type": "1-sqrt"}},
        0,
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.292893, 0.133975],
    ),
    (
        {"shape": "warmup_stable_decay", "decay_steps": 4, "args": {"decay_type": "1-sqrt"}},
        3,
        [0.0, 0.333333, 0.666667, 1.0, 1.0, 1.0, 1.0, 0.5, 0.292893, 0.133975],
    ),
    ({"shape": "constant"}, 0, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ({"shape": "constant_with_warmup"}, 0, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ({"shape": "constant_with_warmup"}, 3, [0.0, 0.333333, 0.666667, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
    (
        {"shape": "piecewise_constant", "args": {"step_rules": "1:2,0.1:5,0.01"}},
        0,
        [1.0, 1.0, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01, 0.01],
    ),
]


def shape_of(horizon: int, **settings: Any) -> LrShape:
    return lr_shape(LrScheduleConfig(**settings), lr=1e-4, stop_at=horizon)


@pytest.mark.parametrize("shape", TABLE)
def test_factors(shape: str) -> None:
    made = shape_of(10, shape=shape)
    assert [made.factor_at(step) for step in range(1, 11)] == pytest.approx(TABLE[shape], abs=1e-6)


@pytest.mark.parametrize("shape", TABLE)
def test_the_warm_up_ends_at_one_and_the_shape_begins_there(shape: str) -> None:
    made = shape_of(14, shape=shape, warmup_steps=4)
    found = [made.factor_at(step) for step in range(1, 15)]
    assert found == pytest.approx([0.25, 0.5, 0.75, 1.0, *TABLE[shape]], abs=1e-6)


@pytest.mark.parametrize(("settings", "warmup", "factors"), THEIRS)
def test_as_sd_scripts(settings: dict[str, Any], warmup: int, factors: list[float]) -> None:
    """Its warm-up begins with an update at a rate of 0, which trains nothing; ours is a step ahead, until both are at
    1."""
    made = shape_of(10, warmup_steps=warmup, **settings)
    found = [made.factor_at(step) for step in range(1, 11)]
    assert found[:warmup] == pytest.approx(factors[1 : warmup + 1], abs=1e-6)
    assert found[warmup:] == pytest.approx(factors[warmup:], abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "beyond"),
    [
        ({"shape": "constant"}, 1.0),
        ({"shape": "linear"}, 0.0),
        ({"shape": "cosine"}, 0.0),
        ({"shape": "cosine_with_restarts:3"}, 0.0),
        ({"shape": "cosine_with_min_lr", "min_ratio": 0.25}, 0.25),
        ({"shape": "polynomial", "args": {"lr_end": 1e-5}}, 0.1),
        ({"shape": "warmup_stable_decay", "decay_steps": 4, "min_ratio": 0.25}, 0.25),
    ],
)
def test_beyond_the_horizon(settings: dict[str, Any], beyond: float) -> None:
    """Not as transformers' cosines, which rise again there."""
    made = shape_of(10, **settings)
    assert [made.factor_at(step) for step in (11, 99)] == [pytest.approx(beyond)] * 2


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"shape": "linear", "args": {"lr_end": 1e-6}}, "lr_scheduler_args_unknown"),
        ({"shape": "polynomial", "args": {"lr_end": "low"}}, "lr_scheduler_args_value"),
        ({"shape": "polynomial", "args": {"lr_end": 1e-4}}, "lr_end_above"),
        ({"shape": "warmup_stable_decay", "args": {"decay_type": "slow"}}, "lr_scheduler_args_value"),
        ({"shape": "piecewise_constant"}, "lr_step_rules_missing"),
        ({"shape": "piecewise_constant", "args": {"step_rules": "1:a,2"}}, "lr_scheduler_args_value"),
        ({"shape": "cosine_with_restarts:2", "cycles": 3}, "lr_cycles_twice"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], code: str) -> None:
    with pytest.raises(ConfigError, match=code):
        LrScheduleConfig(**settings).check(1e-4)


def test_settings_without_effect_are_named() -> None:
    schedule = LrScheduleConfig(shape="cosine", power=2.0, decay_steps=3)
    unused = [(one.option, one.needed) for one in schedule.unused_options]
    needed = ["--lr-schedule polynomial", "--lr-schedule warmup_stable_decay"]
    assert unused == list(zip(["lr-scheduler-power", "lr-decay-steps"], needed, strict=True))
    assert LrScheduleConfig(shape="polynomial", power=2.0).unused_options == ()
