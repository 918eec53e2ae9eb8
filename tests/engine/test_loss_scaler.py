"""The scale of fp16."""

from lorasmith.engine.loss_scaler import GROWTH_STEPS, INITIAL_SCALE, LossScaler


def test_doubles_after_enough_good_steps_in_a_row() -> None:
    scaler = LossScaler()
    for _ in range(GROWTH_STEPS - 1):
        scaler.step_applied()
    assert scaler.scale == INITIAL_SCALE
    scaler.step_applied()
    assert (scaler.scale, scaler.good_steps) == (2 * INITIAL_SCALE, 0)


def test_an_overflow_halves_and_begins_to_count_anew() -> None:
    scaler = LossScaler(scale=4.0, good_steps=7)
    scaler.overflowed()
    assert (scaler.scale, scaler.good_steps) == (2.0, 0)
    assert scaler.can_shrink()
    scaler.overflowed()
    assert not scaler.can_shrink()
