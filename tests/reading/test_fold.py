from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lorasmith.reading.fold import RunFold, curves_of, fold_of, steps_per_epoch
from lorasmith.runs.events import Warned
from lorasmith.runs.ledger import surviving
from tests.reading.made_up import best, evaluated
from tests.ui.fake_engine import run_started, step


def test_the_average_is_over_the_last_epochs_worth_of_steps() -> None:
    events = [run_started(9), *(step(number, loss=float(number)) for number in range(1, 8))]
    averages = [point.average_loss for point in curves_of(events).points]
    assert averages == [1.0, 1.5, 2.0, 2.5, 3.5, 4.5, 5.5]  # four micro-batches an epoch


def test_accumulation_shortens_the_window_and_is_rounded_up() -> None:
    assert steps_per_epoch(run_started(9, accumulate=3)) == 2
    assert steps_per_epoch(run_started(9, accumulate=9)) == 1
    events = [run_started(9, accumulate=3), *(step(number, loss=float(number)) for number in range(1, 4))]
    assert [point.average_loss for point in curves_of(events).points] == [1.0, 1.5, 2.5]


def test_cancelled_steps_leave_no_trace_in_the_curves() -> None:
    first = [run_started(6), *(step(number, loss=100.0) for number in range(1, 6))]
    second = [run_started(6, resumed_from=2, attempt=2), *(step(number, attempt=2, loss=1.0) for number in range(3, 7))]
    whole = curves_of([*first, *second])
    assert [point.step for point in whole.points] == [1, 2, 3, 4, 5, 6]
    assert [point.loss for point in whole.points] == [100.0, 100.0, 1.0, 1.0, 1.0, 1.0]
    assert whole.points[-1].average_loss == 1.0
    assert whole == curves_of(surviving([*first, *second]))


def test_a_start_from_step_0_cancels_everything_before() -> None:
    assert curves_of([run_started(6), step(1), run_started(6, resumed_from=0, attempt=2)]).points == ()


def test_other_events_add_no_point_and_the_newest_target_counts() -> None:
    fold = RunFold()
    assert fold.add(Warned(attempt=1, time=0, code="x")) is None
    assert fold.curves().stop_at is None
    fold.add(run_started(6))
    fold.add(run_started(9, resumed_from=0, attempt=2))
    assert fold.curves().stop_at == 9


@pytest.mark.parametrize(
    ("lr", "main", "others"),
    [
        ({"denoiser": 1.0}, 1.0, {}),
        ({"denoiser": 1.0, "text_encoder": 2.0}, 1.0, {"text_encoder": 2.0}),
        ({"text_encoder": 2.0}, 2.0, {}),
    ],
)
def test_one_learning_rate_stands_for_the_run(lr: dict[str, float], main: float, others: dict[str, float]) -> None:
    event = step(1)
    fold = RunFold()
    point = fold.add(type(event)(**{**{name: getattr(event, name) for name in event.__dataclass_fields__}, "lr": lr}))
    assert point is not None
    assert (point.denoiser_lr, point.other_lrs) == (main, others)


def test_cancelled_measures_and_bests_leave_no_trace_but_a_control_holds(tmp_path: Path) -> None:
    control = evaluated(2, tmp_path, is_control=True)
    first = [run_started(6), step(1), step(2), control, evaluated(1, tmp_path), best(1, 0.2), evaluated(2, tmp_path)]
    events = [*first, best(2, 0.1), run_started(6, resumed_from=1, attempt=2), step(2, attempt=2)]
    found = curves_of(events)
    assert [one.step for one in found.evaluations] == [1]
    assert found.baseline == control
    assert found.best is not None and found.best.step == 1
    assert found == curves_of(surviving(events))
    assert found.evaluation_at(1) is not None and found.evaluation_at(2) is None


def test_a_step_that_was_measured_again_counts_once(tmp_path: Path) -> None:
    again = evaluated(1, tmp_path, share=0.5)
    fold = RunFold()
    for event in (run_started(6), step(1), evaluated(1, tmp_path)):
        fold.add(event)
    assert fold.replaced_by(again) == evaluated(1, tmp_path)
    fold.add(again)
    assert fold.curves().evaluations == (again,)


def test_the_pace_is_by_the_clock_so_saving_counts() -> None:
    fold = fold_of([run_started(900)])
    assert fold.seconds_per_step == 0
    for number, time, pace in ((1, 100.0, 0.5), (2, 103.0, 3.0), (3, 90.0, 0.0)):  # somebody sets the clock back
        fold.add(replace(step(number), time=time, seconds=0.5))
        assert fold.seconds_per_step == pace
    for number in range(4, 200):
        fold.add(replace(step(number), time=103.0 + number, seconds=0.5))
    assert fold.seconds_per_step == 1.0  # what was long ago is forgotten
    fold.add(run_started(900, resumed_from=150, attempt=2))
    assert fold.seconds_per_step == 0
    fold.add(replace(step(151, attempt=2), time=900.0, seconds=0.5))
    assert fold.seconds_per_step == 0.5
