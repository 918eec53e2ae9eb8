"""How a probe is prepared, waited for and given up on. (What it measures: test_probe_process.py.)"""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from lorasmith.config import load_run_toml
from lorasmith.errors import ExitCode, InputError
from lorasmith.planning import plan
from lorasmith.planning import probe as module
from lorasmith.planning.estimate import ProbeResult, Unmeasured, heaviest_example
from lorasmith.planning.probe import ANSWER, PLAN, noise_levels, probe
from tests.end_to_end.trial import HereAndNow
from tests.end_to_end.workshop import Values, Workshop
from tests.families.krea2.miniature import make_model as make_krea2
from tests.planning.test_plan import MEASURED


class Process:
    """Stands in for a trial: does `action` in its folder, then ends with `status`, or never where that is None."""

    def __init__(self, folder: Path, action: Callable[[Path], None], status: int | None) -> None:
        action(folder)
        self._status = status
        self.was_killed = False

    def wait(self, timeout: float | None = None) -> int:
        if self._status is None and timeout is not None:
            raise subprocess.TimeoutExpired("probe", timeout)
        return self._status or 0

    def poll(self) -> int | None:
        return self._status

    def kill(self) -> None:
        self.was_killed = True


def answer(
    workshop: Workshop,
    action: Callable[[Path], None],
    *,
    status: int | None = 0,
    values: Values | None = None,
    seen: list[Process] | None = None,
) -> Any:
    start = workshop.start_new(5, values)

    def launch(arguments: list[str]) -> Any:
        process = Process(Path(arguments[0]), action, status)
        if seen is not None:
            seen.append(process)
        return process

    return probe(start, plan.scan_of(start), launch=launch)


def write(plain: dict[str, Any]) -> Callable[[Path], None]:
    return lambda folder: (folder / ANSWER).write_text(json.dumps(plain)) and None


def test_what_was_measured_comes_back(workshop: Workshop) -> None:
    plain = json.loads(json.dumps(asdict(MEASURED)))
    found = answer(workshop, write({"measured": plain}))
    assert found == MEASURED
    assert isinstance(found, ProbeResult)


def test_the_folder_is_gone_afterwards(workshop: Workshop) -> None:
    folders: list[Path] = []
    answer(workshop, folders.append)
    assert len(folders) == 1
    assert not folders[0].exists()


def test_a_process_that_dies_without_a_word(workshop: Workshop) -> None:
    assert answer(workshop, lambda _: None, status=-9) == Unmeasured("worker_died", {"status": -9})


def test_a_process_that_hangs_is_ended(workshop: Workshop) -> None:
    seen: list[Process] = []
    values = {("watch", "stall_timeout"): 7.0}
    assert answer(workshop, lambda _: None, status=None, values=values, seen=seen) == Unmeasured(
        "probe_stalled", {"seconds": 42}
    )
    assert seen[0].was_killed


def test_bad_input_is_the_runs_too(workshop: Workshop) -> None:
    plain = {"code": "device_missing", "fields": {"device": "cuda"}, "exit_code": int(ExitCode.BAD_INPUT)}
    with pytest.raises(InputError) as caught:
        answer(workshop, write(plain), status=2)
    assert (caught.value.code, caught.value.fields) == ("device_missing", {"device": "cuda"})


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("disk_too_full", ExitCode.BAD_INPUT), ("out_of_memory", ExitCode.NO_RESOURCE), ("crashed", ExitCode.CRASHED)],
)
def test_other_failures_leave_the_plan_without_numbers(workshop: Workshop, code: str, exit_code: ExitCode) -> None:
    plain = {"code": code, "fields": {"reason": "x"}, "exit_code": int(exit_code)}
    assert answer(workshop, write(plain), status=int(exit_code)) == Unmeasured(code, {"reason": "x"})


def test_no_place_for_it(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    found = answer(workshop, lambda _: None)
    assert found.code == "probe_no_place"
    assert found.fields["reason"] == "No space left on device"


def test_the_trial_is_like_the_start(workshop: Workshop) -> None:
    """But for the pictures, how far it goes and what it saves."""
    values: Values = {
        ("training", "batch_size"): 3,
        ("adapter", "rank"): 5,
        ("dataset", "trigger_word"): "zorb",
        ("captions", "prefix"): "blick",
        ("captions", "warmup_steps"): 0.5,
        ("lr_schedule", "warmup_steps"): 4,
        ("dataset", "hold_out"): 1,
    }
    looked: dict[str, Any] = {}

    def look(folder: Path) -> None:
        staged = load_run_toml(folder / "lora_output.starting" / "run.toml")
        looked["config"], looked["whole"] = staged, load_run_toml(folder / PLAN)
        (pictures,) = (folder / "data").iterdir()
        looked["folder"] = pictures.name
        looked["captions"] = sorted(path.read_text() for path in pictures.glob("*.txt"))

    answer(workshop, look, values=values)
    config, whole = looked["config"], looked["whole"]
    assert (config.training, config.adapter, config.model) == (whole.training, whole.adapter, whole.model)
    assert looked["folder"] == "3_"  # so often each that batches of 3 are full
    assert len(looked["captions"]) == 4
    assert all(caption.startswith("a ") for caption in looked["captions"])
    assert (config.dataset.trigger_word, config.dataset.held_out) == ("zorb", ())
    assert (config.captions.prefix, config.captions.warmup_steps) == ("blick", 2)
    assert config.lr_schedule.horizon_steps == 5  # the target of the start, not of the trial
    assert (config.cadence.save_every, config.evaluation.every) == (0, 0)


def test_pictures_of_the_largest_size_with_different_words(workshop: Workshop) -> None:
    start = workshop.start_new(1)
    found = plan.scan_of(start).examples
    largest = heaviest_example(start.config, found).bucket
    few = module.chosen_pictures(start.config, found)
    assert {one.bucket for one in few} == {largest}
    assert len({one.image_sha256 for one in few}) == len(few) <= module.PICTURES


def test_a_trial_of_a_batch_size_makes_steps_of_single_full_batches(workshop: Workshop) -> None:
    start = workshop.start_new(5, {("training", "accumulation_steps"): 4, ("training", "batch_size"): 3})
    looked: dict[str, Any] = {}

    def launch(arguments: list[str]) -> Any:
        folder = Path(arguments[0])
        looked["training"] = load_run_toml(folder / "lora_output.starting" / "run.toml").training
        looked["folders"] = [pictures.name for pictures in (folder / "data").iterdir()]
        looked["options"] = arguments
        return Process(folder, lambda _: None, 1)

    probe(start, plan.scan_of(start), batch_size=8, launch=launch)
    whole = start.config.training
    assert looked["training"] == whole.model_copy(update={"accumulation_steps": 1, "batch_size": 8})
    assert looked["folders"] == ["8_"]
    assert "--measure-device" in looked["options"]


def test_the_noise_levels_of_a_plan_without_a_trial(workshop: Workshop, tmp_path: Path) -> None:
    """Of a model with timesteps nothing is started; a process that fails leaves a plan without them."""
    assert noise_levels(workshop.start_new(5), launch=no_process) == ()
    workshop.base_model = make_krea2(tmp_path / "krea2")
    start = workshop.start_new(5, {("noise", "min_timestep"): 200})
    found = noise_levels(start, launch=HereAndNow)
    assert len(found) == 20 and sum(found) == pytest.approx(1)
    assert sum(found[:4]) == 0 < found[4]
    assert noise_levels(start, launch=lambda arguments: Process(Path(arguments[0]), lambda _: None, 1)) == ()


def no_process(_arguments: list[str]) -> Any:
    raise AssertionError
