"""The bundled base model has really learned, and `lorasmith demo` teaches it what it has never seen.

The figures of docs/demo.md come from the same functions, `python -m benchmarks.demo_quality`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w
import torch

from benchmarks import demo_losses, demo_quality
from lorasmith.demo.lesson import HELD_OUT, KNOWN_OF_EACH_SHAPE, PICTURES, SETTINGS
from lorasmith.demo.miniature import to_single_file
from lorasmith.demo.scenes import SHAPES
from lorasmith.families import load_family
from lorasmith.families.locate import DEMO_MODEL
from lorasmith.families.recognize import recognize
from lorasmith.runs.events import RunStarted, StepCompleted
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import read_events, steps
from lorasmith.ui.demo import DEFAULT_FOLDER, DEFAULT_STEPS
from lorasmith.ui.folder_settings import OF_DEMO

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_it_is_small_and_of_half_precision() -> None:
    files = [file for file in DEMO_MODEL.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 20 * 10**6
    weights = recognize(DEMO_MODEL)
    assert (weights.family, weights.resolution) == ("sd15", 128)
    assert (DEMO_MODEL / "README.md").is_file()


@pytest.mark.ci
def test_its_samples_show_what_was_asked_for() -> None:
    """Few captions here; a hundred by the benchmark."""
    measured = demo_quality.measure_base(20)
    assert measured["found_first_real"] >= 0.8
    assert measured["share"] >= 0.7
    assert measured["psnr_held_out_mean_worst"][0] >= 30


@pytest.mark.ci
def test_as_a_single_file_it_is_the_same_model(tmp_path: Path) -> None:
    file = to_single_file(DEMO_MODEL, tmp_path / "demo.safetensors", with_configs=True)
    where = torch.device("cpu")
    ours = load_family(recognize(DEMO_MODEL))
    theirs = load_family(recognize(file))
    wanted = ours.load_models(trained=("text_encoder",), dtype=torch.float32, to=where)
    found = theirs.load_models(trained=("text_encoder",), dtype=torch.float32, to=where)
    for component in ("denoiser", "text_encoder"):
        for name, tensor in wanted[component].state_dict().items():
            assert torch.equal(found[component].state_dict()[name], tensor), name
    caption = "a zorb on a red background"
    assert torch.equal(ours.tokenize(caption)["input_ids"], theirs.tokenize(caption)["input_ids"])


@pytest.mark.ci
def test_a_few_steps_of_the_demo_as_a_person_types_it(tmp_path: Path) -> None:
    done = _demo(tmp_path, "--steps", "3", "--lang", "zh-TW")
    assert done.returncode == 0, done.stderr
    assert "達到最大訓練步數 3" in done.stdout
    run = RunFolder(tmp_path / "lorasmith_demo" / "lora_output")
    events = read_events(run.ledger)
    assert [event.step for event in steps(events)] == [1, 2, 3]
    (started,) = [event for event in events if isinstance(event, RunStarted)]
    known = KNOWN_OF_EACH_SHAPE * len(SHAPES)
    assert (len(started.examples), len(started.held_out)) == (PICTURES - HELD_OUT + known, HELD_OUT)
    assert all("zorb" in path for path in started.held_out)
    assert run.export("last").is_file()


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the whole demo, trained once. It is evaluated on more pictures than the demo and less often, which
    changes nothing of what is learned."""
    folder = tmp_path_factory.mktemp("demo")
    settings = {**SETTINGS, "evaluate_examples": demo_losses.EXAMPLES, "evaluate_every": DEFAULT_STEPS}
    (folder / DEFAULT_FOLDER).mkdir()
    (folder / DEFAULT_FOLDER / "lorasmith.toml").write_text(OF_DEMO + tomli_w.dumps(settings), encoding="utf-8")
    done = _demo(folder)
    assert done.returncode == 0, done.stderr
    return folder / DEFAULT_FOLDER


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_demo_teaches_what_the_base_has_never_seen(taught: Path) -> None:
    measured = demo_quality.measure_lora(taught / "lora_output" / "last.safetensors", prompts=8, base_captions=50)
    assert measured["ratio"] >= 0.5, measured
    assert measured["interval_95"][0] > 0.3, measured
    base, _, real = measured["likeness_base_lora_real"]
    assert base < 0.5 * real, "the base alone does not know it"
    assert measured["kept"] >= 0.9, measured


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_its_picture_losses_end_well_below_their_control(taught: Path) -> None:
    """One seed; three by the benchmark."""
    run = RunFolder(taught / "lora_output")
    completed = [event for event in read_events(run.ledger) if isinstance(event, StepCompleted)]
    assert completed[-1].step == DEFAULT_STEPS
    found = demo_losses.measured_in(run, DEFAULT_STEPS)
    for measure in ("semantic", "color"):
        assert found[measure]["ratio"] <= 0.7, found


def _demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lorasmith", "demo", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LORASMITH_LANG": "en"},
        capture_output=True,
        encoding="utf-8",
    )
