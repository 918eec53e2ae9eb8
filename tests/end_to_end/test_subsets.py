"""Runs over several folders, sizes and batch sizes: the same bytes resumed, and regularisation pictures that count."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest

from lorasmith.errors import ExitCode
from lorasmith.planning.estimate import Unmeasured
from lorasmith.planning.plan import NOT_PROBED, plan_of, scan_of
from lorasmith.runs.events import StepCompleted
from tests.end_to_end.workshop import Values, Workshop

MakeWorkshop = Callable[[str], Workshop]
STEPS = 12
SUBSETS = ("dataset", "subsets")


def subsets_of(workshop: Workshop) -> Values:
    """Two sizes of the workshop's pictures, the larger in smaller batches and mirrored; and regularisation pictures."""
    folder = workshop.folder / "lora_train_set"
    pictures = sorted(path for path in folder.rglob("*.png"))
    class_folder = workshop.folder / "reg" / "1_thing"
    class_folder.mkdir(parents=True)
    for picture in pictures[:2]:
        shutil.copyfile(picture, class_folder / picture.name)
    tables: list[dict[str, Any]] = [
        {"batch_size": 2, "trigger_word": "sks"},
        {"resolution": 96, "flip_aug": True, "shuffle_caption": True},
        {"data": "reg", "is_reg": True, "batch_size": 2},
    ]
    return {("optimizer", "lr"): 1e-2, ("loss", "prior_loss_weight"): 0.5, SUBSETS: tables}


@pytest.mark.ci
def test_twelve_steps_are_five_and_seven(make_workshop: MakeWorkshop) -> None:
    straight, pieces = make_workshop("straight"), make_workshop("pieces")
    outcome = straight.new(STEPS, subsets_of(straight))
    assert outcome.exit_code == ExitCode.FINISHED
    assert {len(event.example_ids) for event in outcome.of(StepCompleted)} == {1, 2}
    assert pieces.new(STEPS, subsets_of(pieces), stop_after=5).exit_code == ExitCode.STOPPED
    assert pieces.go_on(None).exit_code == ExitCode.FINISHED
    assert pieces.losses() == straight.losses()
    assert pieces.digest() == straight.digest()


@pytest.mark.ci
def test_another_weight_of_regularisation_pictures_is_another_result(make_workshop: MakeWorkshop) -> None:
    half, whole = make_workshop("half"), make_workshop("whole")
    assert half.new(3, subsets_of(half)).exit_code == ExitCode.FINISHED
    assert whole.new(3, {**subsets_of(whole), ("loss", "prior_loss_weight"): 1.0}).exit_code == ExitCode.FINISHED
    assert half.digest() != whole.digest()


def test_the_plan_counts_every_group(make_workshop: MakeWorkshop) -> None:
    workshop = make_workshop("planned")
    start = workshop.start_new(STEPS, subsets_of(workshop))
    plan = plan_of(start, scan_of(start), Unmeasured(NOT_PROBED, {}))
    found = scan_of(start).examples
    twice = [one for one in found if one.subset == 1]
    assert plan.pictures == len(found)
    assert plan.learned_from == len(twice)
    assert plan.batch_sizes == (1, 2)
    learned, others = (
        [one.name for one in plan.folders if one.is_regularisation == is_reg] for is_reg in (False, True)
    )
    assert set(others) == {"1_thing"}
    assert all(learned.count(name) == 2 for name in learned)
    assert {(bucket.width, bucket.height) for bucket in plan.buckets} == {one.bucket for one in found}
    assert sum(bucket.batches for bucket in plan.buckets) == plan.batches_per_epoch > len(twice)


@pytest.mark.ci
def test_a_run_continues_with_other_subsets(make_workshop: MakeWorkshop) -> None:
    workshop = make_workshop("changed")
    assert workshop.new(4, {("optimizer", "lr"): 1e-2}).exit_code == ExitCode.FINISHED
    before = workshop.digest()
    outcome = workshop.go_on(4, subsets_of(workshop))
    assert outcome.exit_code == ExitCode.FINISHED
    assert [event.step for event in outcome.of(StepCompleted)] == [5, 6, 7, 8]
    assert {len(event.example_ids) for event in outcome.of(StepCompleted)} == {1, 2}
    assert workshop.digest() != before
    assert workshop.go_on(2).exit_code == ExitCode.FINISHED  # the tables are the run's own now
