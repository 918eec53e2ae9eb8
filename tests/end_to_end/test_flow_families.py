"""Each family of flow matching from pictures to a file that diffusers reads whole, and continued to the same bytes.

What only one of them has is in the file of its name. In the default tests Krea 2 stands for all of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from lorasmith.adapters.lora import DOWN, UP
from lorasmith.config import ExportConfig
from lorasmith.errors import ExitCode
from lorasmith.lora_tools.inspection import inspect_lora
from lorasmith.runs.events import AdapterExported, CacheProgress, Evaluated, RunStarted
from lorasmith.runs.naming import FileNames
from tests.end_to_end.workshop import Values, Workshop
from tests.families.tiny import MINIATURES

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
SAMPLED: Values = {("evaluation", "every"): 3, ("evaluation", "sample_prompts"): ("a red ring --s 3",)}


@dataclass(frozen=True)
class Flow:
    """What the tests below have to know of a family."""

    name: str
    denoiser: str
    """Diffusers' class."""
    loader: str
    """Diffusers' class that reads LoRAs."""
    layers: int
    """Of the miniature, that are trained."""
    forms: tuple[str, ...] = ()
    """Second files."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of `load_lora_into_transformer`."""

    @property
    def miniature(self) -> Any:
        return import_module(f"tests.families.{self.name}.miniature")

    @property
    def reader(self) -> Any:
        import diffusers.loaders

        return getattr(diffusers.loaders, self.loader)

    def load_denoiser(self, model: Path) -> Any:
        import diffusers

        return getattr(diffusers, self.denoiser).from_pretrained(model / "transformer")

    def fused(self, model: Path, file: Path) -> dict[str, torch.Tensor]:
        """The weights of the denoiser once diffusers has added a LoRA to it, in the layers that are trained."""
        denoiser = self.load_denoiser(model)
        tensors = self.reader.lora_state_dict(str(file))
        self.reader.load_lora_into_transformer(tensors, transformer=denoiser, **self.options)
        denoiser.fuse_lora()
        denoiser.unload_lora()
        return self.weights(denoiser)

    def weights(self, denoiser: nn.Module) -> dict[str, torch.Tensor]:
        if self.name == "flux2_klein":
            from lorasmith.families.flux2_klein.family import join_projections

            join_projections(denoiser)
        return {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}


KREA2 = Flow("krea2", "Krea2Transformer2DModel", "Krea2LoraLoaderMixin", 2 * 8, ("kohya", "diffusers"))
FLOWS = (
    KREA2,
    Flow("qwen_image21", "QwenImage21Transformer2DModel", "QwenImageLoraLoaderMixin", 2 * 7),
    Flow("anima", "CosmosTransformer3DModel", "AnimaLoraLoaderMixin", 2 * 10),
    Flow("zimage", "ZImageTransformer2DModel", "ZImageLoraLoaderMixin", 2 * 7, ("kohya", "comfyui")),
    Flow("flux2_klein", "Flux2Transformer2DModel", "Flux2LoraLoaderMixin", 8 + 2 * 2, ("kohya", "diffusers")),
    Flow(
        "flux1",
        "FluxTransformer2DModel",
        "FluxLoraLoaderMixin",
        12 + 2 * 5,
        ("kohya", "comfyui"),
        {"network_alphas": None},
    ),
)


@pytest.fixture(
    params=[pytest.param(flow, id=flow.name, marks=() if flow is KREA2 else pytest.mark.ci) for flow in FLOWS]
)
def flow(request: pytest.FixtureRequest) -> Flow:
    found: Flow = request.param
    return found


@pytest.fixture
def base_model(flow: Flow, tmp_path: Path) -> Path:
    return MINIATURES[flow.name](tmp_path / "base_model")


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.ci)])
def test_it_trains_and_continues_to_the_same_bytes(make_workshop: MakeWorkshop, precision: str) -> None:
    values: dict[tuple[str, str], Any] = {**SETTINGS, ("model", "precision"): precision, ("noise", "min_timestep"): 200}
    if precision == "bf16":
        values |= {("noise", "density"): "mode", ("noise", "shift"): 3.0, ("loss", "flow_weighting"): "cosmap"}
    straight, pieces = make_workshop("straight"), make_workshop("pieces")
    whole = straight.new(3, {**values, **SAMPLED})
    assert whole.exit_code == ExitCode.FINISHED
    assert pieces.new(3, values, stop_after=1).exit_code == ExitCode.STOPPED
    resumed = pieces.go_on(2)
    assert resumed.exit_code == ExitCode.FINISHED and resumed.of(CacheProgress) == []
    assert pieces.losses() == straight.losses() and pieces.digest() == straight.digest()
    assert [sum(event.noise_levels[:4]) for event in whole.of(RunStarted)] == [0]  # --min-timestep 200
    evaluated = [event for event in whole.of(Evaluated) if not event.is_control]
    assert evaluated and all(event.validation is not None and event.samples for event in evaluated)


@pytest.mark.ci
def test_comfyuis_files_train_to_the_bytes_of_the_folder(
    flow: Flow, make_workshop: MakeWorkshop, base_model: Path, tmp_path: Path
) -> None:
    """Text encoders and VAE are found beside the denoiser, whose names and joined layers are others."""
    file = flow.miniature.make_split(base_model, tmp_path / "models")
    whole, split = make_workshop("whole"), make_workshop("split")
    assert whole.new(2, SETTINGS).exit_code == ExitCode.FINISHED
    assert split.new(2, {**SETTINGS, ("model", "base_model"): str(file)}, stop_after=1).exit_code == ExitCode.STOPPED
    assert split.go_on(1).exit_code == ExitCode.FINISHED
    assert split.losses() == whole.losses() and split.digest() == whole.digest()


def test_diffusers_applies_every_layer_of_the_file_as_trained(flow: Flow, workshop: Workshop, base_model: Path) -> None:
    """Alpha is half the rank here, and the file has no alphas: readers that look for them elsewhere find none."""
    assert workshop.new(2, SETTINGS).exit_code == ExitCode.FINISHED
    path = workshop.run.export("last")
    trained, stored = workshop.adapter(), load_file(path)
    assert len(stored) == len(trained) == 2 * flow.layers
    assert {key.rpartition(".lora_")[2] for key in stored} == {"A.weight", "B.weight"}
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["ss_network_alpha"] == "4.0" and metadata["ss_network_dim"] == "4"
    assert "lora_adapter_metadata" not in metadata and "modelspec.prediction_type" not in metadata
    before, after = flow.weights(flow.load_denoiser(base_model)), flow.fused(base_model, path)
    targets = {name.removesuffix(f".{suffix}") for name in trained for suffix in (DOWN, UP) if name.endswith(suffix)}
    assert len(targets) == flow.layers
    for name, tensor in before.items():
        target = f"denoiser.{name.removesuffix('.weight')}"
        change = after[name] - tensor
        if target not in targets:
            assert not change.any(), name
            continue
        expected = 2.0 / 4 * trained[f"{target}.{UP}"] @ trained[f"{target}.{DOWN}"]
        assert expected.any() and torch.allclose(change, expected, atol=1e-6), name


@pytest.mark.ci
def test_a_file_is_where_another_run_starts(flow: Flow, make_workshop: MakeWorkshop, tmp_path: Path) -> None:
    """The file itself, and what diffusers' reader makes of it."""
    first = make_workshop("first")
    assert first.new(2, SETTINGS).exit_code == ExitCode.FINISHED
    own, theirs = first.run.export("last"), tmp_path / "theirs.safetensors"
    tensors = flow.reader.lora_state_dict(str(own))
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, theirs)
    for number, path in enumerate((own, theirs)):
        assert_it_starts_where(own, path, make_workshop(f"second{number}"))


def assert_it_starts_where(expected: Path, path: Path, workshop: Workshop) -> None:
    """A run that starts from `path` has the tensors of `expected`, in its names."""
    values: Values = {**SETTINGS, ("adapter", "init_from"): str(path), ("optimizer", "lr"): 1e-12}
    assert workshop.new(1, values).exit_code == ExitCode.FINISHED
    before, after = load_file(expected), load_file(workshop.run.export("last"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.allclose(tensor, after[name], atol=1e-6), name


@pytest.mark.ci
def test_a_second_file_is_there_at_the_end(flow: Flow, make_workshop: MakeWorkshop) -> None:
    """With the same change under other names: a run that starts from it has the first file's tensors."""
    for form in flow.forms:
        first = make_workshop(f"first {form}")
        ran = first.new(2, {**SETTINGS, ("export", "format"): form, ("cadence", "save_every"): 1})
        names = FileNames(first.run, ExportConfig(format=form))
        assert ran.exit_code == ExitCode.FINISHED and names.other is not None
        exported = [(event.step, event.path) for event in ran.of(AdapterExported)]
        assert exported[-2:] == [(2, f"last-{form}.safetensors"), (2, "last.safetensors")] and len(exported) == 4
        assert load_file(names.other).keys() != load_file(names.last).keys()
        assert inspect_lora(names.other).file.family == inspect_lora(names.last).file.family == flow.name
        names.other.unlink()  # by somebody: it is made again
        assert first.go_on(None).exit_code == ExitCode.FINISHED and names.other.exists()
        assert_it_starts_where(names.last, names.other, make_workshop(f"second {form}"))
