"""Z-Image from pictures to a file that diffusers reads whole, and continued to the same bytes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lorasmith.adapters.lora import DOWN, UP
from lorasmith.config import ExportConfig
from lorasmith.errors import ExitCode
from lorasmith.lora_tools.inspection import inspect_lora
from lorasmith.runs.events import AdapterExported, CacheProgress, Evaluated, RunStarted
from lorasmith.runs.naming import FileNames
from tests.end_to_end.workshop import Values, Workshop
from tests.families.zimage.miniature import make_model, make_split

pytestmark = pytest.mark.ci  # in the default tests Krea 2 stands for the families of flow matching

MakeWorkshop = Callable[[str], Workshop]
SETTINGS: Values = {
    ("dataset", "resolution"): 64,
    ("adapter", "rank"): 4,
    ("adapter", "alpha"): 2.0,
    ("optimizer", "lr"): 1e-2,
    ("training", "batch_size"): 2,
    ("evaluation", "examples"): 1,
    ("evaluation", "sample_prompts"): ("a red ring",),
    ("export", "save_precision"): "fp32",
}


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("zimage") / "model")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_trains_and_continues_to_the_same_bytes(make_workshop: MakeWorkshop, precision: str) -> None:
    values: dict[tuple[str, str], Any] = {**SETTINGS, ("model", "precision"): precision, ("noise", "min_timestep"): 200}
    if precision == "bf16":
        values |= {("noise", "density"): "mode", ("noise", "shift"): 3.0, ("loss", "flow_weighting"): "cosmap"}
    straight, pieces = make_workshop("straight"), make_workshop("pieces")
    whole = straight.new(3, {**values, ("evaluation", "every"): 3})
    assert whole.exit_code == ExitCode.FINISHED
    assert pieces.new(3, values, stop_after=1).exit_code == ExitCode.STOPPED
    resumed = pieces.go_on(2)
    assert resumed.exit_code == ExitCode.FINISHED and resumed.of(CacheProgress) == []
    assert pieces.losses() == straight.losses() and pieces.digest() == straight.digest()
    assert [sum(event.noise_levels[:4]) for event in whole.of(RunStarted)] == [0]  # --min-timestep 200
    evaluated = [event for event in whole.of(Evaluated) if not event.is_control]
    assert evaluated and all(event.validation is not None and event.samples for event in evaluated)


def test_comfyuis_files_train_to_the_bytes_of_the_folder(
    make_workshop: MakeWorkshop, base_model: Path, tmp_path: Path
) -> None:
    """q, k and v are one layer there, and the VAE has other names."""
    file = make_split(base_model, tmp_path / "models")
    values: Values = {**SETTINGS, ("evaluation", "sample_prompts"): ()}
    whole, split = make_workshop("whole"), make_workshop("split")
    assert whole.new(2, values).exit_code == ExitCode.FINISHED
    assert split.new(2, {**values, ("model", "base_model"): str(file)}, stop_after=1).exit_code == ExitCode.STOPPED
    assert split.go_on(1).exit_code == ExitCode.FINISHED
    assert split.losses() == whole.losses() and split.digest() == whole.digest()


def test_diffusers_applies_every_layer_of_the_file_as_trained(workshop: Workshop, base_model: Path) -> None:
    """Alpha is half the rank here, and the file has no alphas: readers that look for them elsewhere find none."""
    from diffusers import ZImageTransformer2DModel
    from diffusers.loaders import ZImageLoraLoaderMixin

    assert workshop.new(2, SETTINGS).exit_code == ExitCode.FINISHED
    path = workshop.run.export("last")
    trained, stored = workshop.adapter(), load_file(path)
    assert len(stored) == len(trained) == 2 * 2 * 7
    assert {key.rpartition(".lora_")[2] for key in stored} == {"A.weight", "B.weight"}
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["ss_network_alpha"] == "4.0" and metadata["ss_network_dim"] == "4"
    assert "lora_adapter_metadata" not in metadata and "modelspec.prediction_type" not in metadata
    model: Any = ZImageTransformer2DModel.from_pretrained(base_model / "transformer")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = ZImageLoraLoaderMixin.lora_state_dict(str(path))
    ZImageLoraLoaderMixin.load_lora_into_transformer(tensors, model, metadata=None)
    model.fuse_lora()
    model.unload_lora()
    after = model.state_dict()
    targets = {name.removesuffix(f".{suffix}") for name in trained for suffix in (DOWN, UP) if name.endswith(suffix)}
    assert len(targets) == 14
    for name, tensor in before.items():
        target = f"denoiser.{name.removesuffix('.weight')}"
        change = after[name] - tensor
        if target not in targets:
            assert not change.any(), name
            continue
        expected = 2.0 / 4 * trained[f"{target}.{UP}"] @ trained[f"{target}.{DOWN}"]
        assert expected.any() and torch.allclose(change, expected, atol=1e-6), name


@pytest.mark.parametrize("naming", ["own", "diffusers"])
def test_a_file_is_where_another_run_starts(make_workshop: MakeWorkshop, tmp_path: Path, naming: str) -> None:
    first, second = make_workshop("first"), make_workshop("second")
    assert first.new(2, SETTINGS).exit_code == ExitCode.FINISHED
    path = first.run.export("last")
    if naming == "diffusers":
        from diffusers.loaders import ZImageLoraLoaderMixin
        from safetensors.torch import save_file

        tensors = ZImageLoraLoaderMixin.lora_state_dict(str(path))
        path = tmp_path / "theirs.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    values: Values = {**SETTINGS, ("adapter", "init_from"): str(path), ("optimizer", "lr"): 1e-12}
    assert second.new(1, values).exit_code == ExitCode.FINISHED
    before, after = load_file(first.run.export("last")), load_file(second.run.export("last"))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


@pytest.mark.parametrize("form", ["kohya", "comfyui"])
def test_a_second_file_is_there_at_the_end(make_workshop: MakeWorkshop, form: str) -> None:
    """With the same change under other names: a run that starts from it has the first file's tensors."""
    first, second = make_workshop("first"), make_workshop("second")
    asked: Values = {**SETTINGS, ("export", "format"): form, ("cadence", "save_every"): 1}
    ran = first.new(2, asked)
    names = FileNames(first.run, ExportConfig(format=form))  # type: ignore[arg-type]
    assert ran.exit_code == ExitCode.FINISHED and names.other is not None
    exported = [(event.step, event.path) for event in ran.of(AdapterExported)]
    assert exported[-2:] == [(2, f"last-{form}.safetensors"), (2, "last.safetensors")] and len(exported) == 4
    assert sum("attention.qkv." in key.replace("attention_qkv", "attention.qkv") for key in load_file(names.other)) == (
        2 * 3 if form == "kohya" else 2 * 2
    )
    assert inspect_lora(names.other).file.family == "zimage"
    names.other.unlink()  # by somebody: it is made again
    assert first.go_on(None).exit_code == ExitCode.FINISHED and names.other.exists()
    values: Values = {**SETTINGS, ("adapter", "init_from"): str(names.other), ("optimizer", "lr"): 1e-12}
    assert second.new(1, values).exit_code == ExitCode.FINISHED
    before, after = load_file(names.last), load_file(second.run.export("last"))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
