"""The numbers of a plan, worked out by hand; nothing trains. (tests/end_to_end/test_plan.py: against real runs.)"""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lorasmith.config import Request
from lorasmith.demo.miniature import draw_pictures
from lorasmith.planning import plan
from lorasmith.planning.plan import ProbeResult, RunPlan, Unmeasured, as_plain, plan_of, suggested_steps, times_seen
from lorasmith.runtime.start import Start
from lorasmith.runtime.starting import new_run
from tests.end_to_end.workshop import QUIET

MEASURED = ProbeResult(
    device="cpu",
    device_name="Abacus 2000",
    precision="fp32",
    start_seconds=10.0,
    encoders_seconds=2.0,
    picture_seconds=0.5,
    caption_seconds=0.25,
    first_steps_seconds=(3.0, 1.5),
    step_seconds=1.0,
    save_seconds=0.5,
    export_seconds=0.25,
    evaluation_seconds=4.0,
    first_evaluation_seconds=1.5,
    peak_memory=123,
    pictures_to_encode=6,
    captions_to_encode=4,
    picture_bytes=1000,
    caption_bytes=100,
    first_state_bytes=20_000,
    state_bytes=30_000,
    export_bytes=7_000,
    sample_bytes=500,
    ledger_step_bytes=400,
)
EVALUATED = {("evaluation", "every"): 4, ("evaluation", "examples"): 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Four pictures twice each in one size, three once in another."""
    folder = tmp_path_factory.mktemp("planned")
    draw_pictures(folder / "lora_train_set", 4, seed=1, size=(64, 64), repeats=2)
    draw_pictures(folder / "lora_train_set", 3, seed=2, size=(128, 64), repeats=1)
    yield folder


def started(folder: Path, model: Path, steps: int, values: dict[tuple[str, str], Any] | None = None) -> Start:
    settings = {**QUIET, ("model", "base_model"): str(model), **(values or {})}
    return new_run(settings, Request(steps=steps), state_prefix="state", here=folder)


def planned(
    folder: Path, model: Path, steps: int, values: dict[tuple[str, str], Any] | None = None, *, measured: Any = None
) -> RunPlan:
    start = started(folder, model, steps, values)
    return plan_of(start, plan.look(start), measured or Unmeasured("not_probed", {}))


@pytest.mark.parametrize(
    ("pictures", "steps"),
    [(1, (200, 500)), (49, (200, 500)), (50, (500, 1000)), (200, (500, 1000)), (201, (1000, None))],
)
def test_suggested_steps(pictures: int, steps: tuple[int, int | None]) -> None:
    assert suggested_steps(pictures) == steps


def test_times_seen_is_the_missions_for_plain_settings() -> None:
    assert times_seen(500, 1.0, 1, 20) == 25  # steps / pictures
    assert times_seen(500, 2 * 3.0, 10, 200) == 150  # steps x batch x accumulation x its repeats / the sum of repeats


def test_pictures_and_passes(folder: Path, base_model: Path) -> None:
    plan = planned(folder, base_model, 33)
    assert (plan.pictures, plan.repeats, plan.batches_per_epoch, plan.held_out) == (7, 11, 11, 0)
    assert plan.epochs == 3
    assert plan.times_seen == (3, 6)
    assert {(one.name, one.pictures, one.repeats, one.times_seen) for one in plan.folders} == {
        ("2_test", 4, 2, 6),
        ("1_test", 3, 1, 3),
    }
    assert {(one.pictures, one.batches) for one in plan.buckets} == {(4, 8), (3, 3)}
    assert (plan.first_step, plan.stop_at, plan.steps, plan.is_new) == (0, 33, 33, True)


def test_batches_that_are_not_full_are_not_counted_as_full(folder: Path, base_model: Path) -> None:
    """8 = 3 + 3 + 2 and 3: four batches a pass, so 8 steps are two passes, where 8 x 3 / 11 would say 2.2."""
    plan = planned(folder, base_model, 8, {("training", "batch_size"): 3})
    assert (plan.batches_per_epoch, plan.epochs) == (4, 2)
    assert plan.times_seen == (2, 4)
    doubled = planned(folder, base_model, 8, {("training", "batch_size"): 3, ("training", "accumulation_steps"): 2})
    assert (doubled.epochs, doubled.times_seen) == (4, (4, 8))


def test_held_out_pictures_are_not_seen(folder: Path, base_model: Path) -> None:
    plan = planned(folder, base_model, 10, {("dataset", "hold_out"): 2})
    assert (plan.pictures, plan.held_out) == (5, 2)
    assert sum(one.pictures for one in plan.buckets) == 5


def test_without_a_trial_nothing_is_made_up(folder: Path, base_model: Path) -> None:
    plan = planned(folder, base_model, 10)
    assert (plan.time, plan.disk) == (None, None)
    assert plan.measured == Unmeasured("not_probed", {})
    counts = {Path(one.path).parent.name: (one.least, one.most) for one in plan.files if ".lorasmith_cache" in one.path}
    assert counts["latents"] == (0, 7)
    assert counts["text"][0] == 0


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
    # Two pictures of 4 s each at the first, at the end, and for the control; there is no time for the one at step 8.
    assert time.evaluating == 1.5 + 3 * 8.0
    assert time.total == 10 + 6 + 12.5 + 2.75 + time.evaluating
    assert time.seconds_per_step == 1.0


@pytest.mark.parametrize(
    ("every", "made"),
    [
        (1000, 3),  # as often as asked
        (72, 42),  # 72 s between two of 8 s are just a tenth
        (71, 22),  # so every second one
        (5000, 1),
    ],
)
def test_evaluations_take_a_tenth_of_the_time(folder: Path, base_model: Path, every: int, made: int) -> None:
    """3000 steps of 1 s."""
    values = {**EVALUATED, ("evaluation", "every"): every, ("dataset", "folder"): "lora_train_set/2_test"}
    time = planned(folder, base_model, 3000, values, measured=MEASURED).time
    assert time is not None
    assert time.evaluating == 1.5 + (made + 1) * 8.0


def test_many_held_out_pictures_make_an_evaluation_longer(folder: Path, base_model: Path) -> None:
    values = {**EVALUATED, ("dataset", "hold_out"): 3, ("evaluation", "every"): 10}
    time = planned(folder, base_model, 10, values, measured=MEASURED).time
    assert time is not None
    assert time.evaluating == pytest.approx(1.5 + 2 * 4.0 * (0.8 * 2 + 0.2 * 3))


def test_without_evaluation_there_is_none(folder: Path, base_model: Path) -> None:
    plan = planned(folder, base_model, 10, measured=MEASURED)
    assert plan.time is not None and plan.disk is not None
    assert (plan.time.evaluating, plan.disk.samples) == (0, 0)
    assert not [one for one in plan.files if "samples" in one.path]


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


def test_a_disk_too_small_is_seen(folder: Path, base_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not planned(folder, base_model, 10, measured=MEASURED).lacks_room
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert planned(folder, base_model, 10, measured=MEASURED).lacks_room


def test_steps_nobody_named(folder: Path, base_model: Path) -> None:
    start = started(folder, base_model, 1)
    found = plan.look(start)
    assert plan.with_suggested_steps(start, found).stop_at == 200


def test_as_json(folder: Path, base_model: Path) -> None:
    plan = planned(folder, base_model, 10, measured=MEASURED)
    plain = json.loads(json.dumps(as_plain(plan)))
    assert plain["steps"] == 10
    assert plain["time"]["total"] == pytest.approx(plan.time.total if plan.time else None)
    assert plain["disk"]["total"] == (plan.disk.total if plan.disk else None)
    assert plain["measured"]["peak_memory"] == 123
    assert len(plain["files"]) == len(plan.files)
    assert json.loads(json.dumps(as_plain(planned(folder, base_model, 10))))["time"] is None
