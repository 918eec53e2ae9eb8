"""Z-Image-Turbo with its training adapter: the run is that of their sum, and the file holds the run's change alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lorasmith.errors import ExitCode, ModelError
from tests.end_to_end.workshop import Values, Workshop
from tests.families.zimage.turbo import make_sum, make_turbo, write_adapter

pytestmark = pytest.mark.ci  # in the default tests Krea 2 stands for the families of flow matching

MakeWorkshop = Callable[[str], Workshop]
SETTINGS: Values = {
    ("dataset", "resolution"): 64,
    ("adapter", "rank"): 2,
    ("optimizer", "lr"): 1e-2,
    ("export", "save_precision"): "fp32",
}


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_turbo(tmp_path_factory.mktemp("turbo") / "model")


@pytest.mark.parametrize("form", ["fp32", "bf16", "int8"])
def test_the_run_is_that_of_the_sum(make_workshop: MakeWorkshop, base_model: Path, tmp_path: Path, form: str) -> None:
    """To the last bit, also where the sum is rounded or quantised; stopped and continued too."""
    values: dict[tuple[str, str], Any] = {**SETTINGS, ("model", "precision"): "fp32" if form == "int8" else form}
    if form == "int8":
        values["model", "base_precision"] = form
    adapter = write_adapter(tmp_path / "adapter.safetensors")
    added: Values = {**values, ("model", "training_adapter"): str(adapter)}
    of_sum, of_turbo = make_workshop("sum"), make_workshop("turbo")
    summed = {**values, ("model", "base_model"): str(make_sum(base_model, tmp_path / "models" / "sum"))}
    assert of_sum.new(2, summed).exit_code == ExitCode.FINISHED
    assert of_turbo.new(2, added, stop_after=1).exit_code == ExitCode.STOPPED
    assert of_turbo.go_on(1).exit_code == ExitCode.FINISHED
    assert of_turbo.losses() == of_sum.losses()
    found, expected = (load_file(workshop.run.export("last")) for workshop in (of_turbo, of_sum))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_it_belongs_to_the_run(workshop: Workshop, tmp_path: Path) -> None:
    """Turbo alone is refused before anything is written, and a run goes on with the same adapter only."""
    with pytest.raises(ModelError, match="model_turbo_adapter"):
        workshop.start_new(1, SETTINGS)
    assert not workshop.run.root.exists()
    adapter = write_adapter(tmp_path / "adapter.safetensors")
    values: Values = {**SETTINGS, ("model", "training_adapter"): str(adapter)}
    outcome = workshop.new(1, values)
    assert outcome.exit_code == ExitCode.FINISHED
    assert not [event for event in outcome.warned if event.code == "base_model_distilled"]
    save_file({name: 2 * tensor for name, tensor in load_file(adapter).items()}, adapter)
    assert workshop.go_on(1).exit_code == ExitCode.BAD_INPUT


def test_samples_show_turbo_without_the_adapter(make_workshop: MakeWorkshop, base_model: Path, tmp_path: Path) -> None:
    """Alone, and with the run's LoRA: as the file does on Turbo, in Turbo's few steps without guidance."""
    adapter = write_adapter(tmp_path / "adapter.safetensors")
    line = "a red ring --d 7"
    values: dict[tuple[str, str], Any] = {
        **SETTINGS,
        ("optimizer", "lr"): 0.3,
        ("model", "precision"): "fp32",
        ("evaluation", "every"): 1,
        ("evaluation", "examples"): 1,
        ("evaluation", "sample_prompts"): (line,),
    }
    trained, used, summed = (make_workshop(name) for name in ("trained", "used", "summed"))
    assert trained.new(1, {**values, ("model", "training_adapter"): str(adapter)}).exit_code == ExitCode.FINISHED
    file = trained.run.export("last")
    plain = {**values, ("model", "base_form"): "base", ("evaluation", "sample_prompts"): (f"{line} --s 8 --l 1",)}
    started: Values = {**plain, ("adapter", "init_from"): str(file), ("evaluation", "at_first"): True}
    assert used.new(1, started).exit_code == ExitCode.FINISHED
    for ours, theirs in (("control", "control"), ("step-00000001", "step-00000000")):
        assert _difference(trained, ours, used, theirs) <= 1
    sum_of_both = make_sum(base_model, tmp_path / "models" / "sum")
    assert summed.new(1, {**plain, ("model", "base_model"): str(sum_of_both)}).exit_code == ExitCode.FINISHED
    assert _difference(trained, "control", summed, "control") > 10
    assert _difference(trained, "control", trained, "step-00000001") > 10


def _difference(first: Workshop, ours: str, second: Workshop, theirs: str) -> int:
    """The largest of a byte between two pictures of the prompt."""
    pictures = [first.run.samples / ours, second.run.samples / theirs]
    one, other = (np.asarray(Image.open(folder / "prompt-01.png")).astype(int) for folder in pictures)
    return int(np.abs(one - other).max())
