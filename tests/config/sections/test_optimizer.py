import math
from typing import Any

import pytest
from pydantic import ValidationError

from lorasmith.config.sections import LR_SHAPES, LrScheduleConfig, OptimizerConfig


@pytest.mark.parametrize("shape", [*LR_SHAPES, "cosine_with_restarts:3", "cosine_with_restarts:12"])
def test_the_shapes_there_are(shape: str) -> None:
    assert LrScheduleConfig(shape=shape).shape == shape


@pytest.mark.parametrize("shape", ["", "cosin", "cosine:3", "cosine_with_restarts:0", "cosine_with_restarts:", "x"])
def test_no_other_shape(shape: str) -> None:
    with pytest.raises(ValidationError):
        LrScheduleConfig(shape=shape)


@pytest.mark.parametrize("value", [1, 0.5, "x", True, [0.9, 0.99], {"deep": [1, {"er": False}]}, -(2**40)])
def test_an_option_of_the_optimizer_is_what_toml_can_keep(value: Any) -> None:
    assert OptimizerConfig(options={"a": value}).options == {"a": value}


@pytest.mark.parametrize("value", [None, math.inf, math.nan, [None, 0.1], {"deep": None}, (1, 2), object()])
def test_what_would_not_come_back_from_run_toml_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        OptimizerConfig(options={"a": value})


def test_what_may_stay_unset_follows_another_value() -> None:
    assert OptimizerConfig(lr=3.0).resolved_text_encoder_lr(2) == (3.0, 3.0)
    assert OptimizerConfig(lr=3.0, text_encoder_lr=0.0).resolved_text_encoder_lr(2) == (0.0, 0.0)
    assert OptimizerConfig(lr=3.0, text_encoder_lr=["0.5", 0]).resolved_text_encoder_lr(2) == (0.5, 0.0)


@pytest.mark.parametrize("given", [None, 0.5, [0.5, 0.0]])
def test_a_single_rate_is_kept_as_a_number(given: Any) -> None:
    """As run.toml and the ledger of older versions have it."""
    config = OptimizerConfig(text_encoder_lr=given)
    assert config.model_dump()["text_encoder_lr"] == given
    assert OptimizerConfig(**config.model_dump()) == config


@pytest.mark.parametrize("given", [-1.0, [0.5, -1.0], "fast"])
def test_rates_that_are_none(given: Any) -> None:
    with pytest.raises(ValidationError):
        OptimizerConfig(text_encoder_lr=given)
    assert [LrScheduleConfig(horizon_steps=steps).resolved_horizon(70) for steps in (None, 20)] == [70, 20]
