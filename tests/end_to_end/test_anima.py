"""Anima from pictures to a file that diffusers reads whole, and continued to the same bytes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lorasmith.adapters.lora import DOWN, UP
from lorasmith.errors import ExitCode
from lorasmith.runs.events import CacheProgress, Evaluated
from tests.end_to_end.workshop import Values, Workshop
from tests.families.anima.miniature import make_model, make_split

pytestmark = pytest.mark.ci  # in the default tests Krea 2 stands for the families of flow matching

MakeWorkshop = Callable[[str], Workshop]
SETTINGS: Values = {
    ("dataset", "resolution"): 64,
    ("adapter", "rank"): 4,
    ("adapter", "alpha"): 2.0,
    ("optimizer", "lr"): 1e-2,
    ("training", "batch_size"): 2,
    ("evaluation", "examples"): 1,
    ("export", "save_precision"): "fp32",
}
TARGETS = 2 * 10  # of two blocks


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("anima") / "model")


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.ci)])
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
    assert evaluated and all(event.validation is not None for event in evaluated)


@pytest.mark.ci
def test_comfyuis_files_give_the_bytes_of_the_folder(
    make_workshop: MakeWorkshop, base_model: Path, tmp_path: Path
) -> None:
    """The denoiser's file has the conditioner too; the text encoder and the VAE lie beside it."""
    file = make_split(base_model, tmp_path / "models")
    whole, split = make_workshop("whole"), make_workshop("split")
    assert whole.new(2, SETTINGS).exit_code == ExitCode.FINISHED
    assert split.new(2, {**SETTINGS, ("model", "base_model"): str(file)}, stop_after=1).exit_code == ExitCode.STOPPED
    assert split.go_on(1).exit_code == ExitCode.FINISHED
    assert split.losses() == whole.losses() and split.digest() == whole.digest()


def test_diffusers_applies_every_layer_of_the_file_as_trained(workshop: Workshop, base_model: Path) -> None:
    """Alpha is half the rank here, and the file has no alphas: readers that look for them elsewhere find none."""
    from diffusers import CosmosTransformer3DModel
    from diffusers.loaders import AnimaLoraLoaderMixin

    assert workshop.new(2, SETTINGS).exit_code == ExitCode.FINISHED
    path = workshop.run.export("last")
    trained, stored = workshop.adapter(), load_file(path)
    assert len(stored) == len(trained) == 2 * TARGETS
    assert {key.rpartition(".lora_")[2] for key in stored} == {"A.weight", "B.weight"}
    assert all(key.startswith("diffusion_model.blocks.") for key in stored)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["ss_network_alpha"] == "4.0" and metadata["ss_network_dim"] == "4"
    assert "lora_adapter_metadata" not in metadata
    model: Any = CosmosTransformer3DModel.from_pretrained(base_model / "transformer")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = AnimaLoraLoaderMixin.lora_state_dict(str(path))
    AnimaLoraLoaderMixin.load_lora_into_transformer(tensors, model, metadata=None)
    model.fuse_lora()
    model.unload_lora()
    after = model.state_dict()
    targets = {name.removesuffix(f".{suffix}") for name in trained for suffix in (DOWN, UP) if name.endswith(suffix)}
    assert len(targets) == TARGETS
    for name, tensor in before.items():
        target = f"denoiser.{name.removesuffix('.weight')}"
        change = after[name] - tensor
        if target not in targets:
            assert not change.any(), name
            continue
        expected = 2.0 / 4 * trained[f"{target}.{UP}"] @ trained[f"{target}.{DOWN}"]
        assert expected.any() and torch.allclose(change, expected, atol=1e-6), name


@pytest.mark.parametrize("naming", [pytest.param("own", marks=pytest.mark.ci), "diffusers"])
def test_a_file_is_where_another_run_starts(make_workshop: MakeWorkshop, tmp_path: Path, naming: str) -> None:
    first, second = make_workshop("first"), make_workshop("second")
    assert first.new(2, SETTINGS).exit_code == ExitCode.FINISHED
    path = first.run.export("last")
    if naming == "diffusers":
        from diffusers.loaders import AnimaLoraLoaderMixin

        tensors = AnimaLoraLoaderMixin.lora_state_dict(str(path))
        path = tmp_path / "theirs.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    values: Values = {**SETTINGS, ("adapter", "init_from"): str(path), ("optimizer", "lr"): 1e-12}
    assert second.new(1, values).exit_code == ExitCode.FINISHED
    before, after = load_file(first.run.export("last")), load_file(second.run.export("last"))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
