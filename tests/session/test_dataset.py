"""What a run makes of its dataset, and of a change of it. Through real runs in this process."""

import shutil
from typing import Any

import pytest

from lorasmith.data.types import LOSS_WEIGHT
from lorasmith.demo.miniature import draw_pictures
from lorasmith.runs.events import RunStarted, StepCompleted
from tests.end_to_end.workshop import Workshop, load, stage


def origin(workshop: Workshop) -> dict[str, int]:
    found: dict[str, int] = workshop.train_state()["counters"]["origin"]
    return found


def test_unchanged_data_keeps_its_origin(workshop: Workshop) -> None:
    workshop.new(3)
    outcome = workshop.go_on(2)
    assert origin(workshop) == {"step": 0, "epoch": 1}
    assert outcome.of(RunStarted)[0].changed == {}


@pytest.mark.parametrize(
    ("values", "changed"),
    [
        pytest.param({("training", "batch_size"): 2}, {"batch-size": [1, 2]}, marks=pytest.mark.ci),
        ({("training", "accumulation_steps"): 3}, {"accumulate": [1, 3]}),
    ],
)
def test_other_batches_begin_a_new_epoch(workshop: Workshop, values: dict[Any, Any], changed: dict[str, Any]) -> None:
    workshop.new(3)
    outcome = workshop.go_on(2, values)
    (started,) = outcome.of(RunStarted)
    assert started.changed == changed
    assert origin(workshop) == {"step": 3, "epoch": 2}
    assert outcome.of(StepCompleted)[0].epoch == 2
    again = workshop.go_on(1)
    assert origin(workshop) == {"step": 3, "epoch": 2}
    assert again.of(RunStarted)[0].changed == {}


def test_other_pictures_begin_a_new_epoch(workshop: Workshop) -> None:
    (first,) = workshop.new(13).of(RunStarted)  # 11 a pass: in the second epoch
    assert len(first.examples) == 7  # four of them are drawn over below
    assert origin(workshop) == {"step": 0, "epoch": 1}
    draw_pictures(workshop.folder / "lora_train_set", 5, seed=9, size=(64, 64), repeats=2)
    outcome = workshop.go_on(1)
    assert origin(workshop) == {"step": 13, "epoch": 3}
    assert [event.epoch for event in outcome.of(StepCompleted)] == [3]
    (started,) = outcome.of(RunStarted)
    assert len(started.examples) == 8
    (warned,) = outcome.warned
    assert (warned.code, warned.fields) == ("pictures_changed", {"new": 5, "gone": 4, "pictures": 8})
    assert workshop.go_on(1).warned == []


def test_captions_that_are_read_otherwise_are_no_other_pictures(workshop: Workshop) -> None:
    workshop.new(3)
    for values in ({("captions", "prefix"): "p"}, {("captions", "dropout"): 0.5}):
        outcome = workshop.go_on(1, values)
        assert outcome.exit_code == 0 and outcome.warned == []


def test_the_same_pictures_elsewhere_are_the_same_data(workshop: Workshop) -> None:
    workshop.new(3)
    shutil.copytree(workshop.folder / "lora_train_set", workshop.folder / "moved")
    outcome = workshop.go_on(1, {("dataset", "folder"): str(workshop.folder / "moved")})
    assert set(outcome.of(RunStarted)[0].changed) == {"data"}
    assert origin(workshop) == {"step": 0, "epoch": 1}


def test_what_is_not_measured_is_not_encoded(workshop: Workshop) -> None:
    workshop.run.root.mkdir()
    stage(workshop.start_new(6))
    loaded = load(workshop.run, stop_at=6)
    assert loaded.evaluator.measured_on is None
    assert not loaded.evaluator.is_on


def test_regularisation_pictures_have_a_factor_of_their_own(workshop: Workshop) -> None:
    """In every example where it is not 1, and in none where it is."""
    draw_pictures(workshop.folder / "reg", 2, seed=3, size=(64, 64))
    values: dict[Any, Any] = {("dataset", "reg_folder"): str(workshop.folder / "reg")}
    for factor in (1.0, 0.25):
        stage(workshop.start_new(2, {**values, ("loss", "prior_loss_weight"): factor}))
        loaded = load(workshop.run, stop_at=2)
        shutil.rmtree(workshop.run.staging)
        expected = [factor if example.is_regularisation else 1.0 for example in loaded.trained]
        assert {1.0, factor} == set(expected)
        weights = [one.inputs.get(LOSS_WEIGHT) for one in loaded.batches.cached]
        assert weights == [None if factor == 1 else pytest.approx(value) for value in expected]


def test_a_factor_without_regularisation_pictures_is_named(workshop: Workshop) -> None:
    start = workshop.start_new(2, {("loss", "prior_loss_weight"): 0.5})
    assert ("option_unused", {"option": "prior-loss-weight", "needed": "--reg-data-dir"}) in start.warnings
