"""FLUX.2 klein's files: what was trained as one layer and is read as three, and the other way round."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import Flux2LoraLoaderMixin
from safetensors.torch import load_file, save_file

from lorasmith.config import ExportConfig
from lorasmith.errors import ExitCode
from lorasmith.lora_tools.inspection import inspect_lora
from lorasmith.runs.naming import FileNames
from tests.end_to_end.test_flow_families import SETTINGS
from tests.end_to_end.workshop import Values, Workshop
from tests.families.flux2_klein.miniature import make_model

pytestmark = pytest.mark.ci  # in the default tests Krea 2 stands for the families of flow matching

MakeWorkshop = Callable[[str], Workshop]


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("flux2_klein") / "model")


def test_a_file_with_queries_keys_and_values_apart_is_where_a_run_starts(
    make_workshop: MakeWorkshop, tmp_path: Path
) -> None:
    """They have ranks of their own there: together three times as many."""
    first, second = make_workshop("first"), make_workshop("second")
    assert first.new(2, SETTINGS).exit_code == ExitCode.FINISHED
    path = tmp_path / "theirs.safetensors"
    tensors = Flux2LoraLoaderMixin.lora_state_dict(str(first.run.export("last")))
    save_file({name: tensor + 1e-9 * number for number, (name, tensor) in enumerate(tensors.items())}, path)
    assert inspect_lora(path).file.family == "flux2_klein"
    values: Values = {**SETTINGS, ("adapter", "init_from"): str(path), ("optimizer", "lr"): 1e-12}
    values = {**values, ("adapter", "rank"): 12, ("adapter", "alpha"): 12.0}
    assert second.new(1, values).exit_code == ExitCode.FINISHED
    before, after = load_file(first.run.export("last")), load_file(second.run.export("last"))
    assert before.keys() == after.keys()
    for module in {key.rpartition(".lora_")[0] for key in before}:
        one, other = (file[f"{module}.lora_B.weight"] @ file[f"{module}.lora_A.weight"] for file in (before, after))
        assert torch.allclose(one, other, atol=1e-6), module


def test_diffusers_reads_the_second_file_in_its_own_names(workshop: Workshop, base_model: Path) -> None:
    from diffusers import Flux2Transformer2DModel

    assert workshop.new(2, {**SETTINGS, ("export", "format"): "diffusers"}).exit_code == ExitCode.FINISHED
    names = FileNames(workshop.run, ExportConfig(format="diffusers"))
    assert names.other is not None
    weights = []
    for path in (names.last, names.other):
        model: Any = Flux2Transformer2DModel.from_pretrained(base_model / "transformer")
        Flux2LoraLoaderMixin.load_lora_into_transformer(Flux2LoraLoaderMixin.lora_state_dict(str(path)), model)
        model.fuse_lora()
        model.unload_lora()
        weights.append(model.state_dict())
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
