"""The numbers of a plan, worked out by hand; nothing trains. (tests/end_to_end/test_plan.py: against real runs.)"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lorasmith.config import Request
from lorasmith.demo.miniature import draw_pictures
from lorasmith.planning import plan
from lorasmith.planning.estimate import ProbeResult, Unmeasured
from lorasmith.planning.plan import (
    ComponentPlan,
    RunPlan,
    as_plain,
    file_patterns,
    plan_of,
    suggested_steps,
    times_seen,
)
from lorasmith.runs.layout import RunFolder
from lorasmith.runtime.preflight import Start, new_run
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
    return plan_of(start, plan.scan_of(start), measured or Unmeasured("not_probed", {}))


@pytest.mark.parametrize(
    ("pictures", "steps"),
    [(1, (200, 500)), (49, (200, 500)), (50, (500, 1000)), (200, (500, 1000)), (201, (1000, None))],
)
def test_suggested_steps(pictures: int, steps: tuple[int, int | None]) -> None:
    assert suggested_steps(pictures) == steps


def test_times_seen_is_the_missions_for_plain_settings() -> None:
    assert times_seen(500, 1.0, 1, 20) == 25  # steps / pictures
    assert times_seen(500, 2 * 3.0, 10, 200) == 150  # steps x batch x accumulation x its repeats / the sum of repeats


def test_lanes_as_json(folder: Path, base_model: Path) -> None:
    settings = {**QUIET, ("model", "base_model"): str(base_model), ("machine", "device"): "cuda"}
    start = new_run(settings, Request(steps=3, memory="2GiB"), state_prefix="state", here=folder)
    lanes = as_plain(plan_of(start, plan.scan_of(start), Unmeasured("not_probed", {})))["lanes"]
    assert lanes[0]["lane"] == {"checkpointing": "none", "precision": "auto", "offload": 0.0}
    parts = [sum(found[name] for name in ("base", "adapter", "activations", "fixed")) for found in lanes]
    assert [found["total"] for found in lanes] == [
        max(pair) for pair in zip(parts, [found["encoding"] for found in lanes], strict=True)
    ]
    assert as_plain(planned(folder, base_model, 3))["lanes"] == []


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


def test_a_disk_too_small_is_seen(folder: Path, base_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not planned(folder, base_model, 10, measured=MEASURED).lacks_room
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert planned(folder, base_model, 10, measured=MEASURED).lacks_room


def test_steps_nobody_named(folder: Path, base_model: Path) -> None:
    start = started(folder, base_model, 1)
    found = plan.scan_of(start)
    assert plan.with_suggested_steps(start, found).stop_at == 200


def test_as_json(folder: Path, base_model: Path) -> None:
    plan = planned(folder, base_model, 10, measured=MEASURED)
    plain = json.loads(json.dumps(as_plain(plan)))
    assert plain["steps"] == 10
    assert plain["time"]["total"] == pytest.approx(plan.time.total if plan.time else None)
    assert plain["disk"]["total"] == (plan.disk.total if plan.disk else None)
    assert plain["measured"]["peak_memory"] == 123
    assert [file["path"] for file in plain["files"]] == list(plan.files)
    assert json.loads(json.dumps(as_plain(planned(folder, base_model, 10))))["time"] is None


def files(start: Start, folder: Path) -> set[str]:
    return {Path(path).relative_to(folder).as_posix() for path in file_patterns(start)}


def test_files_follow_the_settings(folder: Path, base_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curves, best = "training_logs/lora_training_curves_YYYYMMDD_HHMMSS.png", "lora_output/last-best.safetensors"
    found = files(started(folder, base_model, 10, EVALUATED), folder)
    assert {"lora_output/samples/*/*.png", "training_logs/training_loss_log.txt"} <= found
    assert best not in found and "lora_output/last-step*.safetensors" not in found
    assert not any(path.startswith("lora_output_backup") for path in found)
    held_out = {**EVALUATED, ("dataset", "hold_out"): 1, ("cadence", "save_every"): 4}
    assert {best, "lora_output/last-step*.safetensors"} <= files(started(folder, base_model, 10, held_out), folder)
    for modules, is_there in ((object(), True), (None, False)):
        monkeypatch.setattr(plan, "find_spec", lambda _, found=modules: found)
        assert (curves in files(started(folder, base_model, 10), folder)) == is_there


def test_what_an_earlier_run_left_goes_to_the_backup(base_model: Path, folder: Path, tmp_path: Path) -> None:
    start = replace(started(folder, base_model, 10), run=RunFolder(tmp_path / "lora_output"))
    start.run.root.mkdir()
    start.run.export("last").touch()
    moved = {path for path in file_patterns(start) if Path(path).is_relative_to(start.run.backup)}
    names = {"last_backup_YYYYMMDD_HHMMSS.safetensors", "run_YYYYMMDD_HHMMSS/*"}
    assert moved == {str(start.run.backup / name) for name in names}


def test_the_cache_is_where_the_run_will_have_it(
    folder: Path, base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(tmp_path))
    start = started(folder, base_model, 10)
    start = replace(start, config=start.config.with_values({("dataset", "folder"): str(tmp_path / "data")}))
    (tmp_path / ".lorasmith_cache").touch()  # a file where the folder would be
    assert str(tmp_path / "lorasmith" / "*" / "*.safetensors") in file_patterns(start)


def test_the_layers_that_are_chosen(folder: Path, base_model: Path) -> None:
    chosen = {
        ("adapter", "targets"): "attn-only",
        ("adapter", "train_text_encoder"): True,
        ("adapter", "block_ranks"): {"mid_block": 4, "text_encoder": 8},
    }
    start = started(folder, base_model, 4, chosen)
    found = plan_of(start, plan.scan_of(start), Unmeasured(plan.NOT_PROBED, {})).components
    assert found == (
        ComponentPlan("denoiser", 128, 278, (4, 16)),
        ComponentPlan("text_encoder", 48, 72, (8, 8)),
    )
