"""The learning rate's factor, by hand."""

import pytest

from lorasmith.engine.lr_schedules import lr_factor_at

TABLE = {
    "constant": [1.0] * 10,
    "linear": [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1],
    "cosine": [1.0, 0.975528, 0.904508, 0.793893, 0.654508, 0.5, 0.345492, 0.206107, 0.095492, 0.024472],
    "cosine_with_restarts:2": [1.0, 0.904508, 0.654508, 0.345492, 0.095492] * 2,
    "cosine_with_restarts": [1.0, 0.975528, 0.904508, 0.793893, 0.654508, 0.5, 0.345492, 0.206107, 0.095492, 0.024472],
}


@pytest.mark.parametrize("shape", TABLE)
def test_factors(shape: str) -> None:
    found = [lr_factor_at(step, shape=shape, warmup_steps=0, horizon_steps=10) for step in range(1, 11)]
    assert found == pytest.approx(TABLE[shape], abs=1e-6)


@pytest.mark.parametrize("shape", TABLE)
def test_the_warm_up_ends_at_one_and_the_shape_begins_there(shape: str) -> None:
    found = [lr_factor_at(step, shape=shape, warmup_steps=4, horizon_steps=14) for step in range(1, 15)]
    assert found == pytest.approx([0.25, 0.5, 0.75, 1.0, *TABLE[shape]], abs=1e-6)


@pytest.mark.parametrize(("shape", "beyond"), [("constant", 1.0), ("linear", 0.0), ("cosine", 0.0)])
def test_beyond_the_horizon(shape: str, beyond: float) -> None:
    assert lr_factor_at(11, shape=shape, warmup_steps=0, horizon_steps=10) == beyond
    assert lr_factor_at(99, shape="cosine_with_restarts:3", warmup_steps=0, horizon_steps=10) == 0.0
