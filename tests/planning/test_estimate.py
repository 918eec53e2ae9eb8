"""Time and disk space of a plan, worked out by hand; nothing trains."""

from pathlib import Path

import pytest

from lorasmith.planning.plan import RunPlan
from tests.planning.test_plan import EVALUATED, MEASURED, folder, planned

__all__ = ["folder"]


def test_time_is_the_sum_of_what_it_is_spent_on(folder: Path, base_model: Path) -> None:
    """All in one size and full batches, so a step is a step of the trial. Saved at 0, 4, 8 and 10, exported at 4, 8 and
    the end, evaluated at 4 and 10 and once without the LoRA."""
    values = {**EVALUATED, ("cadence", "save_every"): 4, ("dataset", "folder"): "lora_train_set/2_test"}
    time = planned(folder, base_model, 10, values, measured=MEASURED).time
    assert time is not None
    assert time.starting == 10
    assert time.encoding == 2 + 6 * 0.5 + 4 * 0.25
    assert time.steps == 3 + 1.5 + 8 * 1.0
    assert time.saving == 4 * 0.5 + 3 * 0.25
    # Two pictures of 4 s each at the first, at the end, and for the baseline; for step 8 a tenth of the time.
    assert time.evaluating == pytest.approx(1.5 + 3 * 8.0 + time.steps / 9)
    assert time.total == 10 + 6 + 12.5 + 2.75 + time.evaluating
    assert time.seconds_per_step == 1.0


@pytest.mark.parametrize(
    ("every", "made"),
    [
        (1000, 3),  # as often as asked
        (72, 42),  # 40 of 8 s between the first and the last are just less than a tenth
        (10, 2 + 3002.5 / 9 / 8),  # 298 would be more
        (5000, 1),
    ],
)
def test_evaluations_take_a_tenth_of_the_time(folder: Path, base_model: Path, every: int, made: float) -> None:
    """3000 steps of 1 s."""
    values = {**EVALUATED, ("evaluation", "every"): every, ("dataset", "folder"): "lora_train_set/2_test"}
    time = planned(folder, base_model, 3000, values, measured=MEASURED).time
    assert time is not None
    assert time.evaluating == pytest.approx(1.5 + (made + 1) * 8.0)


def test_many_held_out_pictures_make_an_evaluation_longer(folder: Path, base_model: Path) -> None:
    values = {**EVALUATED, ("dataset", "hold_out"): 3, ("evaluation", "every"): 10}
    time = planned(folder, base_model, 10, values, measured=MEASURED).time
    assert time is not None
    assert time.evaluating == pytest.approx(1.5 + 2 * 4.0 * (0.8 * 2 + 0.2 * 3))


def test_without_evaluation_there_is_none(folder: Path, base_model: Path) -> None:
    plan = planned(folder, base_model, 10, measured=MEASURED)
    assert plan.time is not None and plan.disk is not None
    assert (plan.time.evaluating, plan.disk.samples) == (0, 0)
    assert not [path for path in plan.files if "samples" in path]


def test_smaller_pictures_and_batches_take_their_share(folder: Path, base_model: Path) -> None:
    values = {("training", "batch_size"): 2}
    plan = planned(folder, base_model, 20, values, measured=MEASURED)
    largest = max(one.width * one.height for one in plan.buckets)
    pixels = sum(one.repeats * one.pictures * (64 * 64 if one.repeats == 2 else _other(plan)) for one in plan.folders)
    assert plan.time is not None
    assert plan.time.seconds_per_step == pytest.approx(pixels / (plan.batches_per_epoch * 2 * largest))
    assert 0.8 < plan.time.seconds_per_step < 1


def _other(plan: RunPlan) -> int:
    return next(one.width * one.height for one in plan.buckets if one.width != one.height)


def test_room_on_the_disk(folder: Path, base_model: Path) -> None:
    values = {**EVALUATED, ("cadence", "save_every"): 4, ("cadence", "keep_states"): 2}
    disk = planned(folder, base_model, 10, values, measured=MEASURED).disk
    assert disk is not None
    assert disk.cache == 6 * 1000 + 4 * 100
    assert disk.states == 2 * 30_000
    all_kept = planned(folder, base_model, 10, values | {("cadence", "keep_states"): 5}, measured=MEASURED).disk
    assert all_kept is not None and all_kept.states == 20_000 + 3 * 30_000
    assert disk.exports == 3 * 7_000
    assert disk.samples == (3 + 1) * 2 * 500
    assert disk.logs > 10 * 400
    assert disk.total == disk.cache + disk.states + disk.exports + disk.samples + disk.logs
