from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lorasmith.reading.fold import curves_of, fold_of
from lorasmith.reading.pictures import data_of, samples_of
from lorasmith.runs.events import StepCompleted
from tests.reading.made_up import finished, started, stepped


def test_how_often_each_picture_was_seen_counts_only_steps_that_count(tmp_path: Path) -> None:
    events = [started(tmp_path, 9), *stepped(range(1, 10))]
    again = [started(tmp_path, 9, attempt=2, resumed_from=4), *stepped(range(5, 10), attempt=2)]
    fold = fold_of([*events, *again])
    found = data_of(fold.starts, fold.curves())
    assert sum(found.times_seen) == 9
    steps = [event for event in [*events, *again] if isinstance(event, StepCompleted)]
    expected = [*steps[:4], *steps[9:]]
    assert [picture.times_seen for picture in found.pictures] == [
        sum(number in step.example_ids for step in expected) for number in range(12)
    ]
    assert found.buckets == ((64, 64, 12),)
    assert len(found.held_out) == 4


def test_a_picture_in_two_subsets_is_counted_in_each(tmp_path: Path) -> None:
    start = started(tmp_path, 9)
    tables = [{"data": "cats", "resolution": 64}, {"data": "cats"}, {"data": "reg", "is_reg": True}]
    settings = {**start.settings, "dataset": {**start.settings["dataset"], "subsets": tables}}
    start = replace(start, examples=[*start.examples, start.examples[0]], settings=settings)
    steps = [replace(step, example_ids=[0 if step.step < 4 else 12]) for step in stepped(range(1, 10))]
    fold = fold_of([start, *steps])
    found = data_of(fold.starts, fold.curves())
    assert [found.pictures[number].times_seen for number in (0, 1, 12)] == [3, 0, 6]
    assert len(found.pictures) == 13
    assert found.folder == "cats, reg"


def test_samples_of_the_same_caption_and_seed_are_a_row(tmp_path: Path) -> None:
    rows = samples_of(curves_of(finished(tmp_path)))
    assert [row.seed for row in rows] == [1000, 1001, 1002]
    assert sorted(rows[0].by_step) == [75, 150, 225, 300]
    assert rows[0].baseline is not None and rows[0].baseline["path"].startswith("samples/control/")
