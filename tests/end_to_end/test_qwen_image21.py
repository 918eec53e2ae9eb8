"""Files of other trainers of Qwen-Image 2.1, from which a run starts."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lorasmith.errors import ExitCode
from tests.end_to_end.test_flow_families import SETTINGS
from tests.end_to_end.workshop import Values, Workshop
from tests.families.qwen_image21.miniature import make_model

pytestmark = pytest.mark.ci  # in the default tests Krea 2 stands for the families of flow matching

MakeWorkshop = Callable[[str], Workshop]


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("qwen_image21") / "model")


@pytest.mark.parametrize("form", ["with gate_up", "bare with alphas"])
def test_a_file_of_another_trainer_is_a_start(make_workshop: MakeWorkshop, tmp_path: Path, form: str) -> None:
    """The input layers of an MLP as one, and alphas in float64."""
    first, second = make_workshop("first"), make_workshop("second")
    assert first.new(2, SETTINGS).exit_code == ExitCode.FINISHED
    own = load_file(first.run.export("last"))
    expected, path = own, tmp_path / "other.safetensors"
    if form == "with gate_up":
        expected = {name: own[name.replace("img_mlp.proj.lora_A", "img_mlp.gate_layer.lora_A")] for name in own}
        save_file(_with_gate_up(own), path)
    else:
        stored = {name.removeprefix("transformer."): tensor for name, tensor in own.items()}
        alphas = {name.replace("lora_A.weight", "alpha"): torch.tensor(8.0).double() for name in stored}
        doubled = {name: tensor / 2 if ".lora_B." in name else tensor for name, tensor in stored.items()}
        save_file(doubled | {name: alpha for name, alpha in alphas.items() if name.endswith("alpha")}, path)
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
