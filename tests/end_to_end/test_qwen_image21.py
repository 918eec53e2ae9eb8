"""Qwen-Image 2.1 from pictures to a file that diffusers reads whole, and continued to the same bytes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lorasmith.adapters.lora import DOWN, UP
from lorasmith.errors import ExitCode
from lorasmith.runs.events import CacheProgress, Evaluated
from tests.end_to_end.workshop import Values, Workshop
from tests.families.qwen_image21.miniature import make_model, make_split

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
    return make_model(tmp_path_factory.mktemp("qwen_image21") / "model")


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
    evaluated = [event for event in whole.of(Evaluated) if not event.is_control]
    assert evaluated and all(event.validation is not None and event.samples for event in evaluated)


def test_comfyuis_files_train_to_the_bytes_of_the_folder(
    make_workshop: MakeWorkshop, base_model: Path, tmp_path: Path
) -> None:
    file = make_split(base_model, tmp_path / "models")
    values: Values = {**SETTINGS, ("evaluation", "sample_prompts"): ()}
    whole, split = make_workshop("whole"), make_workshop("split")
    assert whole.new(2, values).exit_code == ExitCode.FINISHED
    assert split.new(2, {**values, ("model", "base_model"): str(file)}).exit_code == ExitCode.FINISHED
    assert split.losses() == whole.losses() and split.digest() == whole.digest()


def test_diffusers_applies_every_layer_of_the_file_as_trained(workshop: Workshop, base_model: Path) -> None:
    """Alpha is half the rank here, and the file has no alphas: readers that look for them elsewhere find none."""
    from diffusers import QwenImage21Transformer2DModel
    from diffusers.loaders import QwenImageLoraLoaderMixin

    assert workshop.new(2, SETTINGS).exit_code == ExitCode.FINISHED
    path = workshop.run.export("last")
    trained, stored = workshop.adapter(), load_file(path)
    assert len(stored) == len(trained) == 2 * 2 * 7
    assert {key.rpartition(".lora_")[2] for key in stored} == {"A.weight", "B.weight"}
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["ss_network_alpha"] == "4.0" and metadata["ss_network_dim"] == "4"
    assert "lora_adapter_metadata" not in metadata and "modelspec.prediction_type" not in metadata
    model: Any = QwenImage21Transformer2DModel.from_pretrained(base_model / "transformer")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = QwenImageLoraLoaderMixin.lora_state_dict(str(path))
    QwenImageLoraLoaderMixin.load_lora_into_transformer(tensors, model, metadata=None)
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


@pytest.mark.parametrize("form", ["own", "with gate_up", "bare with alphas"])
def test_a_file_is_where_another_run_starts(make_workshop: MakeWorkshop, tmp_path: Path, form: str) -> None:
    """Also in the forms of other trainers: of the input layers of an MLP as one, and with alphas in float64."""
    first, second = make_workshop("first"), make_workshop("second")
    assert first.new(2, SETTINGS).exit_code == ExitCode.FINISHED
    own = load_file(first.run.export("last"))
    expected, path = own, tmp_path / "other.safetensors"
    if form == "with gate_up":
        expected = {name: own[name.replace("img_mlp.proj.lora_A", "img_mlp.gate_layer.lora_A")] for name in own}
        save_file(_with_gate_up(own), path)
    elif form == "bare with alphas":
        stored = {name.removeprefix("transformer."): tensor for name, tensor in own.items()}
        alphas = {name.replace("lora_A.weight", "alpha"): torch.tensor(8.0).double() for name in stored}
        doubled = {name: tensor / 2 if ".lora_B." in name else tensor for name, tensor in stored.items()}
        save_file(doubled | {name: alpha for name, alpha in alphas.items() if name.endswith("alpha")}, path)
    else:
        path = first.run.export("last")
    values: Values = {**SETTINGS, ("adapter", "init_from"): str(path), ("optimizer", "lr"): 1e-12}
    assert second.new(1, values).exit_code == ExitCode.FINISHED
    found = load_file(second.run.export("last"))
    assert found.keys() == expected.keys()
    for name in expected:
        if name.endswith("lora_A.weight"):
            up = name.replace("lora_A", "lora_B")
            assert torch.allclose(found[up] @ found[name], expected[up] @ expected[name], atol=1e-6)


def _with_gate_up(own: dict[str, Tensor]) -> dict[str, Tensor]:
    """In ComfyUI's names; the matrix that both halves share is the gate's."""
    made = {}
    for name, tensor in own.items():
        native = name.replace("transformer.", "diffusion_model.", 1)
        if "img_mlp.gate_layer.lora_A" in name:
            made[native.replace("gate_layer", "gate_up")] = tensor
        elif "img_mlp.gate_layer.lora_B" in name:
            made[native.replace("gate_layer", "gate_up")] = torch.cat([tensor, own[name.replace("gate_layer", "proj")]])
        elif "img_mlp.proj" not in name:
            made[native] = tensor
    return made
