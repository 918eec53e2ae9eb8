"""FLUX.1 from pictures to a file that diffusers reads whole, and continued to the same bytes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import FluxLoraLoaderMixin
from safetensors.torch import load_file

from lorasmith.adapters.lora import DOWN, UP
from lorasmith.config import ExportConfig
from lorasmith.errors import ExitCode
from lorasmith.lora_tools.inspection import inspect_lora
from lorasmith.runs.events import CacheProgress, Evaluated
from lorasmith.runs.naming import FileNames
from tests.end_to_end.workshop import Values, Workshop
from tests.families.flux1.miniature import make_model, make_split

pytestmark = pytest.mark.ci  # in the default tests Krea 2 stands for the families of flow matching

MakeWorkshop = Callable[[str], Workshop]
SETTINGS: Values = {
    ("dataset", "resolution"): 64,
    ("adapter", "rank"): 4,
    ("adapter", "alpha"): 2.0,
    ("optimizer", "lr"): 1e-2,
    ("training", "batch_size"): 2,
    ("evaluation", "examples"): 1,
    ("evaluation", "sample_prompts"): ("a red ring --s 3",),
    ("export", "save_precision"): "fp32",
}


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("flux1") / "model")


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp32", marks=pytest.mark.ci)])
def test_it_trains_and_continues_to_the_same_bytes(make_workshop: MakeWorkshop, precision: str) -> None:
    values: dict[tuple[str, str], Any] = {**SETTINGS, ("model", "precision"): precision}
    straight, pieces = make_workshop("straight"), make_workshop("pieces")
    whole = straight.new(3, {**values, ("evaluation", "every"): 3})
    assert whole.exit_code == ExitCode.FINISHED
    assert pieces.new(3, values, stop_after=1).exit_code == ExitCode.STOPPED
    resumed = pieces.go_on(2)
    assert resumed.exit_code == ExitCode.FINISHED and resumed.of(CacheProgress) == []
    assert pieces.losses() == straight.losses() and pieces.digest() == straight.digest()
    evaluated = [event for event in whole.of(Evaluated) if not event.is_control]
    assert evaluated and all(event.validation is not None and event.samples for event in evaluated)


def test_comfyuis_files_train_to_the_bytes_of_the_folder(
    make_workshop: MakeWorkshop, base_model: Path, tmp_path: Path
) -> None:
    """Text encoders and VAE are found beside the denoiser."""
    file = make_split(base_model, tmp_path / "models")
    values: Values = {**SETTINGS, ("evaluation", "sample_prompts"): ()}
    whole, split = make_workshop("whole"), make_workshop("split")
    assert whole.new(2, values).exit_code == ExitCode.FINISHED
    assert split.new(2, {**values, ("model", "base_model"): str(file)}, stop_after=1).exit_code == ExitCode.STOPPED
    assert split.go_on(1).exit_code == ExitCode.FINISHED
    assert split.losses() == whole.losses() and split.digest() == whole.digest()


def test_diffusers_applies_every_layer_of_the_file_as_trained(workshop: Workshop, base_model: Path) -> None:
    """Alpha is half the rank here, and the file has no alphas."""
    from diffusers import FluxTransformer2DModel

    assert workshop.new(2, SETTINGS).exit_code == ExitCode.FINISHED
    path = workshop.run.export("last")
    trained, stored = workshop.adapter(), load_file(path)
    assert len(stored) == len(trained) == 2 * (12 + 2 * 5)
    assert {key.rpartition(".lora_")[2] for key in stored} == {"A.weight", "B.weight"}
    model: Any = FluxTransformer2DModel.from_pretrained(base_model / "transformer")
    before: Any = FluxTransformer2DModel.from_pretrained(base_model / "transformer")
    FluxLoraLoaderMixin.load_lora_into_transformer(FluxLoraLoaderMixin.lora_state_dict(str(path)), None, model)
    model.fuse_lora()
    model.unload_lora()
    after = model.state_dict()
    targets = {name.removesuffix(f".{suffix}") for name in trained for suffix in (DOWN, UP) if name.endswith(suffix)}
    assert len(targets) == 22
    for name, tensor in before.state_dict().items():
        target = f"denoiser.{name.removesuffix('.weight')}"
        change = after[name] - tensor
        if target not in targets:
            assert not change.any(), name
            continue
        expected = 2.0 / 4 * trained[f"{target}.{UP}"] @ trained[f"{target}.{DOWN}"]
        assert expected.any() and torch.allclose(change, expected, atol=1e-6), name


@pytest.mark.parametrize("form", ["", "kohya", "comfyui"])
def test_a_file_is_where_another_run_starts(make_workshop: MakeWorkshop, form: str) -> None:
    """Also the second file, in which layers of the same input are one module of three and of four times the rank."""
    first, second = make_workshop("first"), make_workshop("second")
    assert first.new(2, {**SETTINGS, ("export", "format"): form}).exit_code == ExitCode.FINISHED
    names = FileNames(first.run, ExportConfig(format=form))  # type: ignore[arg-type]
    path = names.other or names.last
    assert inspect_lora(path).file.family == "flux1"
    values: Values = {**SETTINGS, ("adapter", "init_from"): str(path), ("optimizer", "lr"): 1e-12}
    assert second.new(1, values).exit_code == ExitCode.FINISHED
    before, after = load_file(names.last), load_file(second.run.export("last"))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
